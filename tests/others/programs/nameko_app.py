"""nameko, patched by eventlet: RPC, an RPC within one, and events, before and after a kill of the broker."""
import eventlet

eventlet.monkey_patch()

import sys  # noqa: E402

from application import check, kill, run  # noqa: E402
from nameko.containers import ServiceContainer  # noqa: E402
from nameko.events import EventDispatcher, event_handler  # noqa: E402
from nameko.rpc import RpcProxy, rpc  # noqa: E402
from nameko.standalone.rpc import ClusterRpcProxy  # noqa: E402

CALLERS, CALLS = 10, 20
seen = []


class Adder:
    name = 'adder'
    dispatch = EventDispatcher()

    @rpc
    def add(self, a, b):
        self.dispatch('added', [a, b])
        return a + b


class Relay:
    name = 'relay'
    adder = RpcProxy('adder')

    @rpc
    def add(self, a, b):
        return self.adder.add(a, b)

    @event_handler('adder', 'added')
    def on_added(self, pair):
        seen.append(tuple(pair))


def calls(config, first):
    wrong = []

    def caller(k):
        with ClusterRpcProxy(config, timeout=20) as cluster:
            for i in range(CALLS):
                try:
                    answer = (cluster.relay if i % 2 else cluster.adder).add(k, i)
                except Exception as error:
                    answer = error
                if answer != k + i:
                    wrong.append((k, i, repr(answer)))

    pool = eventlet.GreenPool(CALLERS)
    for k in range(first, first + CALLERS):
        pool.spawn(caller, k)
    pool.waitall()
    return wrong


def main(url):
    config = {'AMQP_URI': url}
    containers = [ServiceContainer(Adder, config), ServiceContainer(Relay, config)]
    for container in containers:
        container.start()
    for when, first in (('before the kill', 0), ('after the kill', 100)):
        if first:
            kill()
            eventlet.sleep(8)
        wrong = calls(config, first)
        check(f'calls {when}', not wrong, f'{len(wrong)} of {CALLERS * CALLS}: {wrong[:1]}')
        wanted = {(k, i) for k in range(first, first + CALLERS) for i in range(CALLS)}
        for _ in range(200):
            if wanted <= set(seen):
                break
            eventlet.sleep(0.1)
        check(f'events {when}', wanted <= set(seen), f'{len(wanted - set(seen))} lost')


run(main, sys.argv[1])
