"""OpenAI's API on localhost: its wire format, its limits and its failures, with no key and no cost.

It is written from the API's documentation and shares no code with the rest of the package, so that one
misunderstanding cannot hide on both sides. Every answer says that it is simulated.

```python
from parallel_openai.local import simulator

with simulator.serve(max_requests_per_minute=600, latency=0.5, fault_500=0.02) as server:
    print(server.base_url)   # give this to any OpenAI client
    print(server.stats())
```
"""

from __future__ import annotations

from parallel_openai.local.simulator.serving import Server, serve
from parallel_openai.local.simulator.settings import Settings

__all__ = ["Server", "Settings", "serve"]
