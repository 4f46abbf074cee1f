"""In a process of its own: push one folder to a Hub on loopback that fails at each request in turn.

    python tests/push_faults.py FOLDER

Prints one JSON object: what a push did under each fault, and what the Hub held after a repetition.
The client's debugging output goes to stderr, every traceback to stdout: no token may be in either.
"""

import hashlib
import json
import os
import sys
import time
import traceback
from pathlib import Path

from hub_server import Fault, Hub

KINDS = [Fault(1, kind) for kind in ("401", "403", "409", "429", "500", "cut")] + [Fault(1, "cut", obeyed=True)]
LASTING = ("401", "403", "500", "cut")
REPOSITORY = "tester/student"


def digest(files):
    return hashlib.sha256(repr(sorted((name, bytes(content)) for name, content in files.items())).encode()).hexdigest()


def of_folder(folder):
    return digest({str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()})


def attempt(push, folder, **more):
    """One push: "pushed", or the error's first words; its traceback is printed."""
    try:
        push(folder, REPOSITORY, **{"attempts": 2, "wait": lambda seconds: None, "on_failure": print, **more})
    except Exception as error:
        traceback.print_exc(file=sys.stdout)
        return f"{type(error).__name__}: {error}"
    return "pushed"


def main():
    folder = Path(sys.argv[1])
    hub = Hub(os.environ["HF_TOKEN"])
    with hub.serve() as endpoint:
        os.environ["HF_ENDPOINT"] = endpoint
        from huggingface_hub import logging

        from hf_kd.hub import push

        logging.set_verbosity_debug()
        time.sleep = lambda seconds: None  # the client's own waits between its own attempts
        report = {"before": of_folder(folder), "runs": []}
        hub.fail()
        report["first"] = attempt(push, folder)
        report["requests"] = list(hub.requests)
        report["content"] = digest(hub.content(REPOSITORY))
        report["files"] = sorted(hub.content(REPOSITORY))
        for number in range(1, len(report["requests"]) + 1):
            for fault in KINDS:
                for times in (1, 1000) if fault.kind in LASTING and not fault.obeyed else (1,):
                    hub.repositories.clear()
                    hub.blobs.clear()
                    hub.fail(Fault(number, fault.kind, fault.obeyed, times))
                    under_fault = attempt(push, folder)
                    hub.fail()
                    again = attempt(push, folder)
                    found = hub.content(REPOSITORY)
                    report["runs"].append(
                        {
                            "request": report["requests"][number - 1],
                            "fault": f"{fault.kind}{' obeyed' * fault.obeyed} x {times}",
                            "under_fault": under_fault,
                            "again": again,
                            "same": digest(found) == report["content"],
                        }
                    )
        report["after"] = of_folder(folder)
        report["others"] = others(hub, push, folder)
    report["unreachable"] = attempt(push, folder)
    print(json.dumps(report))


def others(hub, push, folder):
    """What is no fault: private repositories, branches, an existing repository, wrong names."""
    hub.repositories.clear()
    found = {"private": attempt(push, folder, private=True), "is_private": hub.repositories[REPOSITORY].private}
    found["private again"] = attempt(push, folder, private=True)
    hub.repositories.clear()
    attempt(push, folder)
    commits = len(hub.repositories[REPOSITORY].commits)
    found["unchanged"] = attempt(push, folder)
    found["no empty commit"] = len(hub.repositories[REPOSITORY].commits) == commits
    found["public"] = attempt(push, folder, private=True)
    found["revision"] = attempt(push, folder, revision="v2")
    found["branches"] = sorted(hub.repositories[REPOSITORY].branches)
    for name in ("stranger/student", "not an id"):
        try:
            push(folder, name)
        except Exception as error:
            found[name] = str(error)
    return found


if __name__ == "__main__":
    main()
