"""Has the smoke demo kept its score? Compares a finished demo with benchmarks/smoke.json; code 6 when it lost more than the tolerance.

    python scripts/keep_score.py WORK [--record]

The demo is simulated and deterministic, so a lower score is a change of the code, not of luck. `--record` writes the present figures down, for a change that is wanted.
"""
import argparse
import sys
from pathlib import Path

from spectramind.core.errors import DataError, SpectraMindError
from spectramind.core.store import read_json, write_json

KEPT = Path(__file__).resolve().parents[1]/"benchmarks"/"smoke.json"
PARTS = ("score", "score_fgs1", "score_airs")
TOLERANCE = 0.005      # of the score: other processors round differently


def lost(found: dict, kept: dict) -> list:
    "What fell by more than the tolerance, in words."
    return [f"{name}: found {found[name]:.4f}, wanted at least {kept[name] - kept['tolerance']:.4f} ({kept[name]:.4f} was recorded)"
            for name in PARTS if not found[name] >= kept[name] - kept["tolerance"]]


def main() -> int:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("work", type=Path)
    ap.add_argument("--record", action="store_true")
    args = ap.parse_args()
    found = read_json(args.work/"artifacts"/"reports"/"score.json")
    if missing := [name for name in PARTS if not isinstance(found.get(name), float)]:
        raise DataError(args.work/"artifacts"/"reports"/"score.json", f"no {missing[0]}", "a scored run", hint="run `spectramind demo` there first")
    if args.record:
        write_json(KEPT, {name: round(found[name], 4) for name in PARTS} | dict(tolerance=TOLERANCE, data="simulated, smoke profile, seed 2025: `spectramind demo`"))
        print(f"recorded: score {found['score']:.4f}")
        return 0
    fell = lost(found, read_json(KEPT))
    print(*(fell or [f"score {found['score']:.4f}: kept"]), sep="\n")
    return 6 if fell else 0


if __name__ == "__main__":
    try: sys.exit(main())
    except SpectraMindError as error:
        print(error.message + (f"\n{error.hint}" if error.hint else ""), file=sys.stderr)
        sys.exit(error.exit_code)
