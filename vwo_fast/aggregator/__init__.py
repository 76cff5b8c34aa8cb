"""The aggregator: the one process per queue that reads the lanes and talks to VWO.

Rooms, from the ground up: values (``sealed``, ``outcome``, ``gate``), what it reads
(``lanes``, ``routes``, ``batcher``), what it sends (``transport``, ``line``,
``shipper``), what it keeps (``spool``), whom it answers (``control``, ``barrier``,
``reports``), what it shows (``metrics``), how it lives (``process``), and the
``loop`` that owns all of them.  One thread runs all rooms; the sender threads of
``transport`` only make requests.
"""

from __future__ import annotations

__all__: list[str] = []
