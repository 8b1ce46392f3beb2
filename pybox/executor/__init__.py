"""Executor: a concurrent.futures.Executor whose workers are containers.

executor.py    what the user sees
dispatcher.py  the one thread that launches workers, gives them calls, hears of their ends
crew.py        one worker, as it looks from here: its channel, its calls, its container
calls.py       a call, a command, and the futures they end in
wire.py        what goes through the channel
ship.py        what a worker is sent first: the program and the caller's cloudpickle
inside.py      that program
"""
