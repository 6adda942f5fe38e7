"""Receives webhooks, and prints with which of the secrets PyPI's `standardwebhooks` verifies each: a line of JSON."""

import json, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook, WebhookVerificationError

SECRETS = sys.argv[1:]
PRINTING = threading.Lock()


def tell(line):
    with PRINTING:
        print(json.dumps(line), flush=True)


def verifies(secret, body, headers):
    try:
        Webhook(secret).verify(body, headers, json_parse=False)  # the signature alone
        return True
    except WebhookVerificationError:
        return False


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        changed = bytearray(body)
        changed[-2] ^= 1
        tampered = [
            (bytes(changed), headers),
            (body, {**headers, "webhook-id": headers["webhook-id"] + "0"}),
            (body, {**headers, "webhook-timestamp": str(int(headers["webhook-timestamp"]) - 1)}),
        ]
        tell({
            "id": headers["webhook-id"],
            "body": body.decode(),
            "verified": [index for index, secret in enumerate(SECRETS) if verifies(secret, body, headers)],
            "tampered": sum(any(verifies(secret, *one) for secret in SECRETS) for one in tampered),
        })
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
tell({"url": f"http://127.0.0.1:{server.server_port}/webhook"})
server.serve_forever()
