"""Send orders to the worker of `tasks.py`, and wait for what they cost.

    python examples/celery_app/order.py [HOW MANY]
"""
import sys

from celery import chord
from tasks import price, ship, total


def main(count):
    shipped = [ship.delay(number) for number in range(count)]
    cost = chord(price.s(number, 3) for number in range(count))(total.s())
    print('shipped', sum(1 for result in shipped if result.get(timeout=30) is not None))
    print('costs', cost.get(timeout=30))


if __name__ == '__main__':
    main(int(sys.argv[1]) if sys.argv[1:] else 10)
