"""Changed artefacts: a few of them in every run of the tests, many on demand."""

import subprocess
import sys
from pathlib import Path

import pytest

MUTATE = Path(__file__).with_name("mutate.py")

# Endings that the harness lets pass, and such that it must not.
CODE = """
import os, sys, time
sys.path.insert(0, sys.argv[1])
from torture.mutate import faults, in_a_process
from engram.errors import InputError

def fails(action, seconds=20.0, as_json=False):
    return bool(faults(in_a_process(action, seconds), as_json))

def raises(error):
    raise error

assert not fails(lambda: None)
assert not fails(lambda: sys.exit(3))
assert not fails(lambda: raises(InputError("x")))
assert fails(lambda: sys.exit(1))
assert fails(lambda: raises(KeyError("x")))
assert fails(lambda: raises(RecursionError()))
assert fails(lambda: os.kill(os.getpid(), 9))
assert fails(lambda: print(chr(0x1b) + "[31m"))
assert fails(lambda: print(chr(0x202e), file=sys.stderr))
assert fails(lambda: time.sleep(60), 0.3)
assert fails(lambda: len(bytearray(1_200_000_000)))
assert fails(lambda: print("no JSON"), as_json=True)
assert not fails(lambda: print("{}"), as_json=True)
"""


def run(*words, seconds):
    done = subprocess.run(
        [sys.executable, MUTATE, *words], capture_output=True, text=True, timeout=seconds
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    return done.stdout.splitlines()[-1]


@pytest.mark.slow
def test_a_few_changed_artefacts():
    # Cases that build a model take most of the time; every hundredth is one.
    words = ("--cases", "300", "--seed", "7", "--heavy-every", "100")
    assert run(*words, seconds=300).startswith("0 of 300 failed")


@pytest.mark.torture
def test_many_changed_artefacts():
    assert run("--cases", "2000", "--seed", "0", seconds=1800).startswith("0 of 2000 failed")


def test_the_harness_notices_what_it_looks_for():
    words = [sys.executable, "-c", CODE, MUTATE.parents[1]]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
