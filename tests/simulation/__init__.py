"""Whole runs in virtual time, one for each seed: the plan, the runner, the limiter, the journal and the frame are ours,
and the server, the network, the disk and the clock around them are drawn by the seed, and hostile.

    python -m tests.simulation --lives 100000          so many lives; a seed that breaks a promise is printed
    python -m tests.simulation --seed 4711             one of them again, with what happened in it
    python -m tests.simulation.mutations               after how many lives each promise is found broken
"""
