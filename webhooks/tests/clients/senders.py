"""Requests that the vendors' PyPI packages have signed, and what the receiver says to each. Among them are the
objects with an id in the tests of Stripe's package, whose source archive is in the folder `sdist`."""

import ast, glob, json, os, subprocess, sys, tarfile, time
from datetime import datetime, timezone
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import standardwebhooks, stripe

STANDARD, STRIPE = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_5WbX5kEWLlfzsGNjH64I8lOOqUB6e8FH"
folder = sys.argv[1]
receiver = subprocess.Popen(
    [os.environ["RECEIVER"], "--listen", "127.0.0.1:0", "--inbox", f"{folder}/pypi.sqlite", "--secret", STANDARD, "--stripe-secret", STRIPE],
    stdout=subprocess.PIPE, text=True)
base = receiver.stdout.readline().strip().removeprefix("listening on ")
body = open(f"{folder}/payment_intent.succeeded.json", encoding="utf-8").read()
now = int(time.time())
signature = standardwebhooks.Webhook(STANDARD).sign("msg_pypi", datetime.fromtimestamp(now, timezone.utc), body)


def post(path, headers, text):
    request = Request(f"{base}/webhook{path}", text.encode(), {"Content-Type": "application/json", **headers})
    try:
        return urlopen(request, timeout=10).status
    except HTTPError as error:
        return error.code


def stripes_objects():
    archive = tarfile.open(glob.glob(f"{folder}/sdist/stripe-*.tar.gz")[0])
    tests = (member for member in archive if "/tests/" in member.name and member.name.endswith(".py"))
    texts = set()
    for node in (node for test in tests for node in ast.walk(ast.parse(archive.extractfile(test).read()))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.lstrip().startswith("{"):
            texts.add(node.value)
    return {text for text in texts if isinstance(parsed(text).get("id"), str)}


def parsed(text):
    try:
        return json.loads(text)
    except ValueError:
        return {}


def by_stripe(text):
    signature = stripe.WebhookSignature._compute_signature(f"{now}.{text}", STRIPE)
    return {"Stripe-Signature": f"t={now},v1={signature}"}


try:
    objects = stripes_objects()
    assert len(objects) > 10, objects
    for text in objects:
        assert post("/stripe", by_stripe(text), text) == 200, text
    for path, headers in [
        ("", {"webhook-id": "msg_pypi", "webhook-timestamp": str(now), "webhook-signature": signature}),
        ("/stripe", by_stripe(body)),
    ]:
        assert post(path, headers, body) == 200, path
        assert post(path, headers, body.replace("2000", "2001")) == 401, path
    print(f"2 requests of PyPI's packages verified, and {len(objects)} objects of Stripe's tests")
finally:
    receiver.terminate()
assert receiver.wait(20) == 0
