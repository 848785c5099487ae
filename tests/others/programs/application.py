"""What a program of `tests.others` says to `applications`, which runs it: lines of JSON."""
import json
import os
import sys
import traceback


def say(**facts):
    print(json.dumps(facts), flush=True)


def check(name, well, why=''):
    """One thing that must be so, and why it is not."""
    say(check=name, outcome='passed' if well else why or 'no')


def kill():
    """Have the broker killed and started again; returns when it is back."""
    say(kill=True)
    sys.stdin.readline()


def run(main, *arguments):
    """The whole program: what it raises is a failure, and nothing it leaves behind keeps the process."""
    try:
        main(*arguments)
    except BaseException as error:
        traceback.print_exc()
        check('the program', False, repr(error))
    say(end=True)
    os._exit(0)
