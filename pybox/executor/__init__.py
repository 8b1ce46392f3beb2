"""Executor: a concurrent.futures.Executor whose workers are containers.

    executor.py    what the user sees
    dispatcher.py  the one thread: what happens, and what follows from it
    staff.py       which worker gets a call, when another one is hired
    commands.py    commands, which need no worker
    loop.py        how the thread sleeps, and how others wake it
    crew.py        one worker, as it looks from here: its channel, its calls, its container
    calls.py       a call, a command, and the futures they end in
    wire.py        what goes through the channel
    ship.py        what a worker is sent first: the program and the caller's cloudpickle
    inside.py      that program

A call goes from submit through the inbox of the loop to the staff, as a message into the socket of a worker, and as a result back.
"""
