"""A polling client in requests: requests_client.py URL QUERY SECONDS.

Prints {"status":…,"page":…} or {"failure":…}, one per line.
"""

import json
import sys
import time

import requests

url, query, pause = sys.argv[1:]
after, etag = "earliest", None


def tell(**told):
    print(json.dumps(told), flush=True)


with requests.Session() as session:
    session.trust_env = False
    while True:
        headers = {"If-None-Match": etag} if etag else {}
        try:
            answer = session.get(f"{url}?after={after}{query}", headers=headers, timeout=10)
            if answer.status_code == 304:
                tell(status=304)
            else:
                answer.raise_for_status()
                page = answer.json()
                after, etag = page["next"], answer.headers.get("ETag")
                ids = [message["id"] for message in page["messages"]]
                tell(status=200, page={"ids": ids, "gap": page["gap"]})
        except requests.RequestException as failure:
            tell(failure=str(failure))
        time.sleep(float(pause))
