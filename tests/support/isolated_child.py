"""Stands in for the process in which jobs are executed alone: it does what the last part of a job's payload says."""

from __future__ import annotations

import json
import os
import signal
import sys

print("{}", flush=True)
for line in sys.stdin:
    order = json.loads(line)["payload"].rpartition(":")[2]
    if order == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    answer = {"fail": {"error": "no luck"}, "continue": {"is_over": False}}.get(order, {"is_over": True})
    print(json.dumps({**answer, "pid": os.getpid()}), flush=True)
