"""A polling client in aiohttp: aiohttp_client.py URL QUERY SECONDS.

Prints {"status":…,"page":…} or {"failure":…}, one per line.
"""

import asyncio
import json
import sys

import aiohttp

url, query, pause = sys.argv[1:]


def tell(**told):
    print(json.dumps(told), flush=True)


async def main():
    after, etag = "earliest", None
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while True:
            headers = {"If-None-Match": etag} if etag else {}
            try:
                async with session.get(f"{url}?after={after}{query}", headers=headers) as answer:
                    if answer.status == 304:
                        tell(status=304)
                    else:
                        answer.raise_for_status()
                        page = await answer.json()
                        after, etag = page["next"], answer.headers.get("ETag")
                        ids = [message["id"] for message in page["messages"]]
                        tell(status=200, page={"ids": ids, "gap": page["gap"]})
            except (aiohttp.ClientError, asyncio.TimeoutError) as failure:
                tell(failure=str(failure))
            await asyncio.sleep(float(pause))


asyncio.run(main())
