"""Runs programs that a model wrote, confined, against hidden tests.

    sandbox     the interface: Sandbox, Program, ProgramLimits, Result
    client      the trainer's end: starts the server, asks it for processes
    server      forks two processes for every job
    candidate   the process that runs the program
    judge       the process that runs the tests; remote: its proxies
    wire        plain data between processes that do not trust each other
    confine     what a process gives up first; seccomp, syscalls: how
    stdlib      Python's standard library for processes without files
    probe       a program that tries to get out, run at every start

`python -m dlrl.sandbox` prints what protects this machine.
"""
