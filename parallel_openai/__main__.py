"""`python -m parallel_openai`: the same as the command `parallel-openai`."""

import sys  # pragma: no cover - the tests run this file as a process of its own, where nothing measures

from parallel_openai.cli import main  # pragma: no cover - the same

if __name__ == "__main__":  # pragma: no cover - the same
    sys.exit(main())
