"""What ``vwo-fast bench`` and ``vwo-fast tune`` do: measure this machine, simulate a queue on it, advise.

``measure`` has the figures, ``flow`` and ``outage`` the simulations, ``advice`` the
choice among settings, ``report`` what is written.  No worker and no aggregator
imports anything of this.
"""
