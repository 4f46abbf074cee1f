"""hf_kd beside the textbook Trainer and other libraries: speed and memory of one distillation step.

    python examples/benchmark/run.py                              # ours and the textbook one: minutes
    python examples/benchmark/run.py --python textbrewer=/venvs/textbrewer/bin/python

Every contender trains in a process of its own, one at a time, in turns. Libraries that are not
installed here are skipped; `--python` names an interpreter that has one. Writes figures as JSON
and a plot beside the table that it prints. The headline shape takes some 12 GB of memory.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BASE, SMALL = [12, 768, 12, 3072], [6, 256, 8, 1024]
SHAPES = {
    "xlmr-6x256": {"vocabulary": 250002, "teacher": BASE, "student": SMALL, "rows": 8, "tokens": 128},
    "xlmr-6x256-512": {"vocabulary": 250002, "teacher": BASE, "student": SMALL, "rows": 2, "tokens": 512},
    "bert-6x256": {"vocabulary": 30522, "teacher": BASE, "student": SMALL, "rows": 8, "tokens": 128},
    "tiny": {"vocabulary": 500, "teacher": [3, 48, 6, 96], "student": [2, 32, 4, 64], "rows": 4, "tokens": 16},
}
CONTENDERS = (
    "hf_kd",
    "hf_kd_bf16",
    "hf_kd_loop",
    "hf_kd_without_attention",
    "textbook",
    "textbrewer",
    "modelopt",
    "torchdistill",
)


def step_flops(shape):
    """Floating-point operations of the step's matrix products, labelled positions alone in the output layers."""
    positions = shape["rows"] * shape["tokens"]
    total = 0.0
    for role, passes in (("teacher", 1), ("student", 3)):  # a backward pass is two products for each
        layers, width, _, inner = shape[role]
        products = layers * (4 * width**2 + 2 * width * inner + 2 * shape["tokens"] * width)
        output = width * (width + shape["vocabulary"])
        total += 2 * passes * (positions * products + 0.15 * positions * output)
    return total


def matrix_rate(threads, seconds=2.0):
    """Best rate of a square float32 product here, in operations a second."""
    torch.set_num_threads(threads)
    size, best, end = 2048, 0.0, time.perf_counter() + seconds
    one, other = torch.randn(2, size, size)
    out = torch.empty(size, size)
    while time.perf_counter() < end:
        start = time.perf_counter()
        torch.mm(one, other, out=out)
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def run_contender(name, shape, python):
    """One turn of one contender: its figures, or the reason why there are none."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment["OMP_NUM_THREADS"] = str(shape["threads"])
    command = [python, str(HERE / "contenders.py"), name, json.dumps(shape)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    lines = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
    return {"reason": lines[-1]}


def summarise(turns, floor):
    """Median seconds a step, best and worst turn, memory above the weights and the first loss."""
    medians = [statistics.median(turn["seconds"]) for turn in turns]
    return {
        "seconds": statistics.median(second for turn in turns for second in turn["seconds"]),
        "cpu_seconds": statistics.median(second for turn in turns for second in turn["cpu_seconds"]),
        "turns": medians,
        "above_weights_mb": statistics.median(turn["peak_mb"] - turn["weights_mb"] for turn in turns),
        "peak_mb": statistics.median(turn["peak_mb"] for turn in turns),
        "losses": turns[0]["losses"],
        "times_floor": statistics.median(medians) / floor,
    }


def table(found):
    """The figures as lines of text."""
    ours, floor = found["contenders"].get("hf_kd"), found["floor_seconds"]
    lines = [
        f"{found['shape']}: floor {floor:.3f} s a step ({found['flops'] / 1e9:.0f} GFLOP at {found['rate'] / 1e9:.0f} "
        "GFLOP/s)",
        f"{'':26}{'s/step':>8}{'turns':>16}{'x ours':>8}{'x floor':>9}{'peak MB':>9}{'- weights':>10}  losses",
    ]
    for name, figures in found["contenders"].items():
        ratio = figures["seconds"] / ours["seconds"] if ours else float("nan")
        turns = f"{min(figures['turns']):.3f}-{max(figures['turns']):.3f}"
        losses = f"{figures['losses'][0]:.5f} … {figures['losses'][-1]:.5f}"
        lines.append(
            f"{name:26}{figures['seconds']:8.3f}{turns:>16}{ratio:8.2f}{figures['times_floor']:9.2f}"
            f"{figures['peak_mb']:9.0f}{figures['above_weights_mb']:10.0f}  {losses}"
        )
    lines += [f"{name:26} skipped: {reason}" for name, reason in found["skipped"].items()]
    return "\n".join(lines)


def draw(found, path):
    """Time and memory of each contender as bars."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(found["contenders"])[::-1]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 0.45 * len(names) + 1.2), sharey=True)
    for axes, key, label in ((left, "seconds", "seconds a step"), (right, "above_weights_mb", "MB above the weights")):
        values = [found["contenders"][name][key] for name in names]
        colours = ["tab:blue" if name.startswith("hf_kd") else "tab:gray" for name in names]
        axes.bar_label(axes.barh(names, values, color=colours), fmt="%.3g", padding=3)
        axes.set_xlabel(label)
        axes.margins(x=0.15)
        axes.spines[["top", "right"]].set_visible(False)
    left.axvline(found["floor_seconds"], color="black", linestyle=":")
    figure.suptitle(found["shape"])
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def parse(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="xlmr-6x256", help="models and batch, default xlmr-6x256")
    parser.add_argument("--contenders", default=",".join(CONTENDERS), help="names, separated by commas, default all")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each contender, default 3")
    parser.add_argument("--steps", type=int, default=5, help="timed steps a turn, after one untimed, default 5")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads, default one for each processor")
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH", help="interpreter of a contender")
    parser.add_argument("--output", type=Path, default=Path("benchmark_output"), help="folder for JSON and plot")
    return parser.parse_args(arguments)


def commit():
    done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def main(arguments=None):
    args = parse(arguments)
    pythons = dict(item.split("=", 1) for item in args.python)
    shape = SHAPES[args.shape] | {"steps": args.steps, "threads": args.threads}
    turns, skipped, rate = {}, {}, 0.0
    for index in range(args.rounds):
        rate = max(rate, matrix_rate(args.threads))
        for name in args.contenders.split(","):
            if name in skipped:
                continue
            print(f"round {index + 1} of {args.rounds}: {name}", file=sys.stderr, flush=True)
            figures = run_contender(name, shape, pythons.get(name, sys.executable))
            if "reason" in figures:
                skipped[name] = figures["reason"]
            else:
                turns.setdefault(name, []).append(figures)
    floor = step_flops(shape) / rate
    found = {
        "shape": args.shape,
        "settings": shape,
        "flops": step_flops(shape),
        "rate": rate,
        "floor_seconds": floor,
        "contenders": {name: summarise(each, floor) for name, each in turns.items()},
        "skipped": skipped,
        "machine": f"{platform.machine()}, {args.threads} threads",
        "torch": torch.__version__,
        "commit": commit(),
        "command": " ".join(["python examples/benchmark/run.py", *(arguments or sys.argv[1:])]),
    }
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / f"{args.shape}.json").write_text(json.dumps(found, indent=1))
    draw(found, args.output / f"{args.shape}.png")
    print(table(found))
    return found


if __name__ == "__main__":
    main()
