"""A server that answers, and a client that asks: replies come straight back (RabbitMQ's direct reply-to).

    python examples/rpc.py [--broker URL]
"""

import argparse

from greenmq import Connection, Queue, runtime, uuid
from greenmq.mixins import ConsumerProducerMixin

questions = Queue('greenmq-example-questions', queue_arguments={'x-queue-type': 'quorum'})


class Server(ConsumerProducerMixin):

    def __init__(self, connection):
        self.connection = connection

    def get_consumers(self, Consumer, channel):
        return [Consumer([questions], callbacks=[self.on_question], prefetch_count=10)]

    def on_question(self, body, message):
        # On a connection of its own: one that a broker blocks for publishing must still consume.
        self.producer.publish(body['number'] ** 2, exchange='', routing_key=message.properties['reply_to'],
                              correlation_id=message.properties['correlation_id'])
        message.ack()


class Client:

    def __init__(self, connection):
        self.connection = connection
        self.channel = connection.channel()
        if connection.transport.driver_type == 'amqp':
            self.replies = Queue('amq.rabbitmq.reply-to', no_declare=True, no_ack=True)
        else:
            self.replies = Queue(f'greenmq-example-replies-{uuid()}', durable=False, auto_delete=True,
                                 no_ack=True)
        self.answers = {}
        self.consumer = connection.Consumer([self.replies], channel=self.channel, callbacks=[self.on_answer])
        self.consumer.consume()

    def on_answer(self, body, message):
        self.answers[message.properties['correlation_id']] = body

    def ask(self, number):
        ticket = uuid()
        self.channel.Producer().publish(
            {'number': number}, exchange='', routing_key=questions.name,
            reply_to=self.replies.name, correlation_id=ticket)
        while ticket not in self.answers:
            self.connection.drain_events(timeout=5)
        return self.answers.pop(ticket)


if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('--broker', default='memory://')
    with Connection(parser.parse_args().broker) as connection:
        questions(connection).declare()
        server = Server(connection)
        running = runtime.spawn(server.run, name='rpc-server')
        client = Client(connection)
        print('answers:', *(client.ask(number) for number in range(5)))
        client.consumer.cancel()
        server.should_stop = True
        running.join()
        questions(connection).delete()
