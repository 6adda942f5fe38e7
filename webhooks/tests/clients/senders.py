"""Requests that the vendors' PyPI packages have signed, and what the receiver says to each."""

import os, subprocess, sys, time
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
signed = stripe.WebhookSignature._compute_signature(f"{now}.{body}", STRIPE)


def post(path, headers, text):
    request = Request(f"{base}/webhook{path}", text.encode(), {"Content-Type": "application/json", **headers})
    try:
        return urlopen(request, timeout=10).status
    except HTTPError as error:
        return error.code


try:
    for path, headers in [
        ("", {"webhook-id": "msg_pypi", "webhook-timestamp": str(now), "webhook-signature": signature}),
        ("/stripe", {"Stripe-Signature": f"t={now},v1={signed}"}),
    ]:
        assert post(path, headers, body) == 200, path
        assert post(path, headers, body.replace("2000", "2001")) == 401, path
    print("2 requests of PyPI's packages verified")
finally:
    receiver.terminate()
assert receiver.wait(20) == 0
