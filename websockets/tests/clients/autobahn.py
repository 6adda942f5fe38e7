"""Runs the cases of the Autobahn Testsuite against an echo server: autobahn.py URL.

The cases are the suite's own; `kosoku` runs them on Python 3. Compression (groups 12 and 13) is left
out: the server does not offer it. The close codes are checked here too, because the suite passes a
server that closes without one.
"""

import asyncio
import re
import sys
from collections import Counter

from kosoku import FailureError, run_fuzzingclient

CASES = 301
CLOSE_CODES = {
    # Protocol errors: frames that are malformed, reserved or out of order, and invalid close frames.
    1002: r"2\.5|3\..*|4\..*|5\.(1|2|9|1[0-8])|7\.3\.[26]|7\.9\..*",
    # Text that is not UTF-8.
    1007: r"6\.3\..*|7\.5\.1",
}


async def main(url):
    try:
        results = await run_fuzzingclient(url, None, ["12.*", "13.*"], concurrency=4)
    except FailureError as failure:
        sys.exit(str(failure))
    assert len(results) == CASES, f"{len(results)} cases ran, not {CASES}"
    for due, pattern in CLOSE_CODES.items():
        codes = {one.case_id: one.remote_close_code for one in results if re.fullmatch(pattern, one.case_id)}
        wrong = {case: code for case, code in codes.items() if code != due}
        assert codes and not wrong, f"not closed with {due}: {wrong}"
        print(f"{len(codes)} cases are closed with {due}")
    print(", ".join(f"{count} {verdict}" for verdict, count in Counter(one.behavior.value for one in results).items()))


asyncio.run(main(*sys.argv[1:]))
