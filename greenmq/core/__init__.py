"""Pure bookkeeping: no I/O, no clock of its own, no switch. Who keeps books here cannot wait.

* `ledger`: deliveries that are out and not settled, and how their acks are said in few words
* `confirms`: publishes that the broker has not answered for yet
* `topology`: what was declared, in the order to declare it again
* `routing`: bindings and a key to queues: direct, topic, fanout, headers
* `retry`: the number of an attempt to its delay

Nothing here is safe against two native threads at once, and nothing needs to be: a connection belongs to one
hub, and between two greenlets of a hub nothing is half done, because nothing here switches.
"""
