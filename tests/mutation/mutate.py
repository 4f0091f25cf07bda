#!/usr/bin/env python3
"""Do the tests notice when the code is wrong? Comparison operators of the codec, the fold, the overlay and the sweeps are
changed, one at a time (< to <=, == to !=, and so on), and each change must make a test fail.

    mutate.py [COUNT [SEED [FILE]...]]   COUNT operators (50), spread over the files, chosen by SEED (1); of these files only

For each: the changed file is compiled, and the tests run in this order until one fails: unit/check_delta,
unit/check_frame, of vtab/check_upkeep what holds with any thresholds, the differential test on a library with small
thresholds, and, for core, the unit tests under AddressSanitizer, for ext, the rest of vtab/check_upkeep, with usual thresholds.
What no test can notice, because the result is the same
or nobody is promised another, stands in equivalent.txt beside this file, with the reason. Prints a line for each, and at
the end how many were caught; exits with 1 if one survived.

Needs what `./dev test` needs, and build/release built with its tests.
"""

import os
import random
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "build" / "mutation"
FILES = ["core/dv_delta.c", "core/dv_frame.c", "ext/row.c", "ext/txn.c", "ext/settle.c"]
OTHER = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
OPERATOR = re.compile(r"(?<![<>=!\-])(<=|>=|==|!=|<|>)(?![<>=])")
FLAGS = ["-std=gnu11", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-w", "-DDVX_SMALL_LIMITS", "-DNDEBUG"]


def run(command, cpu_seconds=200, seconds=3600):
    """The exit code; a hang is a failure too. It has so much time of a CPU: on a machine that stands still meanwhile, time
    by the clock would make a failure of what is none."""
    limit = lambda: resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds))
    try:
        return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=seconds,
                              preexec_fn=limit).returncode
    except subprocess.TimeoutExpired:
        return -1


def must(command):
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{result.stderr}")


def operators(name):
    """(line number, column, operator) of each comparison that is code."""
    found, in_comment = [], False
    for number, line in enumerate((ROOT / name).read_text().splitlines()):
        if in_comment:
            in_comment = "*/" not in line
            continue
        if line.lstrip().startswith("#"):
            continue
        code, opening, comment = line.partition("/*")
        in_comment = opening != "" and "*/" not in comment
        code = re.sub(r'"(\\.|[^"\\])*"', lambda m: " " * len(m.group()), code)
        if "ASSERT" in code or "prefetch" in code or "->" in code and "static" in code:
            continue
        for match in OPERATOR.finditer(code.replace("->", "  ")):
            found.append((number, match.start(), match.group()))
    return found


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    equivalent = {}
    for line in (Path(__file__).parent / "equivalent.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            where, reason = line.split(" -- ", 1)
            equivalent[where.strip()] = reason

    chooser = random.Random(seed)
    per_file = {name: operators(name) for name in sys.argv[3:] or FILES}
    total = sum(map(len, per_file.values()))
    chosen = []
    for name, found in per_file.items():
        n = round(count * len(found) / total)
        chosen += [(name, *where) for where in sorted(chooser.sample(found, min(n, len(found))))]
    print(f"{len(chosen)} of {total} comparisons, seed {seed}")

    shutil.rmtree(WORK, ignore_errors=True)
    (WORK / "objects").mkdir(parents=True)
    include = [f"-I{ROOT}/core", f"-I{ROOT}/ext", f"-I{ROOT}/tests", f"-I{ROOT}/tests/unit"]
    sources = sorted([*ROOT.glob("core/*.c"), *ROOT.glob("core/simd/*.c"), *ROOT.glob("ext/*.c")])
    objects = {}
    for source in sources:
        objects[source] = WORK / "objects" / (source.stem + ".o")
        must(["cc", *FLAGS, *include, "-c", source, "-o", objects[source]])
    check = subprocess.run(["pkg-config", "--cflags", "--libs", "check"], capture_output=True, text=True).stdout.split()
    core = [o for s, o in objects.items() if "core" in s.parts]
    for test in ("check_delta", "check_frame"):
        must(["cc", *FLAGS, *include, f'-DDV_DOCS="{ROOT}/docs"', "-c", ROOT / f"tests/unit/{test}.c", "-o", WORK / f"{test}.o"])
    must(["cc", *FLAGS, *include, f'-DDV_EXTENSION_PATH="{WORK}/delta_vectors"', ROOT / "tests/vtab/check_upkeep.c",
          ROOT / "tests/vtab/support.c", "-o", WORK / "check_upkeep", *check, "-lsqlite3", "-lm"])

    def tests():
        for test in ("check_delta", "check_frame"):
            must(["cc", "-o", WORK / test, WORK / f"{test}.o", *core, *check, "-lm"])
            yield f"unit/{test}", [WORK / test]
        must(["cc", "-shared", "-o", WORK / "delta_vectors.so", *objects.values(), "-lm"])
        yield "vtab/check_upkeep", ["env", "CK_RUN_CASE=any_thresholds", WORK / "check_upkeep"]
        yield "model/differential", [ROOT / "build/release/tests/differential_system", "--extension", WORK / "delta_vectors",
                                     "--programs", "60", "--ops", "200", "--seed", "1"]

    def sanitized(source, mutant):
        """Do the unit tests of core fail under AddressSanitizer? For what reads or writes a place too far."""
        flags = ["-std=gnu11", "-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-w"]
        others = [s for s in [*ROOT.glob("core/*.c"), *ROOT.glob("core/simd/*.c")] if s != source]
        for test in ("check_delta", "check_frame"):
            program = WORK / f"{test}_sanitized"
            must(["cc", *flags, *include, mutant, *others, ROOT / f"tests/unit/{test}.c", "-o", program, *check, "-lm"])
            if run([program]) != 0:
                return True
        return False

    usual_objects = {}

    def usual(source, mutant):
        """Does vtab/check_upkeep fail with usual thresholds? For what only makes it slow, or a backlog long."""
        directory = WORK / "usual"
        flags = [flag for flag in FLAGS if flag != "-DDVX_SMALL_LIMITS"]
        directory.mkdir(exist_ok=True)
        if not usual_objects:
            for s in sources:
                usual_objects[s] = directory / (s.stem + ".o")
                must(["cc", *flags, *include, "-c", s, "-o", usual_objects[s]])
            must(["cc", *flags, *include, f'-DDV_EXTENSION_PATH="{directory}/delta_vectors"', ROOT / "tests/vtab/check_upkeep.c",
                  ROOT / "tests/vtab/support.c", "-o", directory / "check_upkeep", *check, "-lsqlite3", "-lm"])
        obj = directory / "mutant.o"
        must(["cc", *flags, f"-I{source.parent}", *include, "-c", mutant, "-o", obj])
        others = [o for s, o in usual_objects.items() if s != source]
        must(["cc", "-shared", "-o", directory / "delta_vectors.so", obj, *others, "-lm"])
        return run(["env", "CK_RUN_CASE=upkeep", directory / "check_upkeep"]) != 0

    os.environ["CK_DEFAULT_TIMEOUT"] = "3600"  # what run() allows is less
    os.chdir(WORK)
    for test, command in tests():
        if run(command) != 0:
            sys.exit(f"{test} fails on the code as it is")
    survived = 0
    for name, number, column, operator in chosen:
        source = ROOT / name
        lines = source.read_text().splitlines()
        line = lines[number]
        lines[number] = line[:column] + OTHER[operator] + line[column + len(operator):]
        key = f"{name}: {line.strip()} : {operator} at {line[:column].count(operator) + 1}"
        if key in equivalent:
            print(f"equivalent  {key}: {equivalent[key]}", flush=True)
            continue
        mutant = WORK / source.name
        mutant.write_text("\n".join(lines) + "\n")
        obj, good = objects[source], WORK / "good.o"
        shutil.copy(obj, good)
        by = None
        include_here = [f"-I{source.parent}", *include]
        if run(["cc", *FLAGS, *include_here, "-c", mutant, "-o", obj]) != 0:
            by = "the compiler"
        else:
            for test, command in tests():
                if run(command) != 0:
                    by = test
                    break
            if by is None and source.parent.name == "core" and sanitized(source, mutant):
                by = "unit tests under AddressSanitizer"
            if by is None and source.parent.name == "ext" and usual(source, mutant):
                by = "vtab/check_upkeep with usual thresholds"
        shutil.copy(good, obj)
        survived += by is None
        print(f"{'caught' if by else 'SURVIVED':11} {key}{f' by {by}' if by else ''}", flush=True)
    n = len(chosen)
    print(f"{n - survived} of {n} caught or equivalent, {survived} survived")
    sys.exit(survived > 0)


main()
