"""Fanout exchanges as topics of SNS.

An exchange is a topic, a binding a subscription of its queue, with raw delivery: the queue gets kombu's
envelope as plain JSON. One statement of the queue's policy lets all its topics send.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from greenmq import runtime
from greenmq.exceptions import ConnectionLost, KombuError, OperationalError, TimeoutError
from greenmq.log import get_logger
from greenmq.transport.driver import Put
from greenmq.transport.SQS import envelope, predefined
from greenmq.transport.SQS.aws import refusal
from greenmq.transport.SQS.exceptions import (
    DoesNotExistQueueException,
    UnableToSubscribeQueueToTopicException,
    UnableToUnsubscribeQueueFromTopicException,
    UndefinedExchangeException,
)
from greenmq.transport.SQS.logins import Logins
from greenmq.transport.SQS.names import canonical, is_fifo
from greenmq.transport.SQS.queues import Queues
from greenmq.utils.json import dumps, loads

__all__ = ('Topics',)

logger = get_logger('greenmq.transport.SQS')

#: Name of our statement in the policies of queues, as kombu has it.
STATEMENT = 'KombuManaged'
ENTRIES = 10


class Topics:
    """The topics of one driver.

    Arguments:
        queues (Queues), logins (Logins): which queues, and who calls. settings (Mapping): of the driver.
    """

    def __init__(self, queues: Queues, logins: Logins, settings: Mapping[str, Any]) -> None:
        self._queues = queues
        self._logins = logins
        self._settings = settings
        self._exchanges: Mapping[str, Any] = settings['predefined_exchanges'] or {}
        self._arns: dict[str, str] = {}
        self._subscribed: dict[tuple[str, str], str] = {}  # (exchange, queue) → ARN of the subscription
        self._cleaned: set[str] = set()
        self._lock = runtime.Lock()  # of the policies: read, changed and written

    def _facts(self, exchange: str) -> Mapping[str, Any] | None:
        return predefined.exchange(self._exchanges, exchange)

    def _call(
        self, exchange: str, operation: str, deadline: runtime.Deadline, **params: Any
    ) -> dict[str, Any]:
        return self._logins.of_exchange(self._facts(exchange)).call('sns', operation, deadline, **params)

    def arn(self, exchange: str, deadline: runtime.Deadline) -> str:
        """Return the ARN of the topic of an exchange, made if there is none. Switches: the first time."""
        facts = self._facts(exchange)
        if facts is not None:
            return str(facts['arn'])
        found = self._arns.get(exchange)
        if found is None:
            name = canonical(exchange, self._settings['queue_name_prefix'] or '', 'exchange')
            params: dict[str, Any] = {
                'Name': name,
                'Attributes': {'FifoTopic': 'true'} if is_fifo(name) else {},
                'Tags': [
                    {'Key': 'ManagedBy', 'Value': 'Celery/Kombu'},
                    {'Key': 'Description', 'Value': 'A fanout exchange'},
                ],
            }
            found = self._call(exchange, 'create_topic', deadline, **params)['TopicArn']
            self._arns[exchange] = found
        return found

    # ---- bindings

    def bind(self, exchange: str, queue: str, deadline: runtime.Deadline) -> None:
        """Subscribe a queue. The same twice is one.

        Raises:
            UnableToSubscribeQueueToTopicException: SNS refuses.
        Switches: yes.
        """
        if (exchange, queue) in self._subscribed:
            return
        topic = self.arn(exchange, deadline)
        self._clean(exchange, topic, deadline)
        arn = self._queues.attributes(queue, deadline)['QueueArn']
        try:
            answer = self._call(
                exchange, 'subscribe', deadline, TopicArn=topic, Protocol='sqs', Endpoint=arn,
                Attributes={'RawMessageDelivery': 'true'}, ReturnSubscriptionArn=True,
            )  # fmt: skip
        except OperationalError as error:
            raise UnableToSubscribeQueueToTopicException(f'{queue} to {exchange}: {error}') from error
        with self._lock:
            self._allow(queue, arn, topic, deadline)
        self._subscribed[exchange, queue] = answer['SubscriptionArn']

    def _allow(self, queue: str, arn: str, topic: str, deadline: runtime.Deadline) -> None:
        """Let a topic send to a queue, and those that may already."""
        found = self._queues.call(queue, 'get_queue_attributes', deadline, AttributeNames=['Policy'])
        given = (found.get('Attributes') or {}).get('Policy')
        policy = loads(given) if given else {'Version': '2012-10-17'}
        statements = policy.get('Statement') or []
        statements = statements if isinstance(statements, list) else [statements]
        ours = next((each for each in statements if each.get('Sid') == STATEMENT), None)
        topics = [topic]
        if ours is not None:
            known = ((ours.get('Condition') or {}).get('ArnLike') or {}).get('aws:SourceArn') or []
            topics = list(dict.fromkeys([*([known] if isinstance(known, str) else known), topic]))
            if len(topics) == 1 and known in (topic, [topic]) or known == topics:
                return
            statements.remove(ours)
        statements.append({
            'Sid': STATEMENT,
            'Effect': 'Allow',
            'Principal': {'Service': 'sns.amazonaws.com'},
            'Action': 'SQS:SendMessage',
            'Resource': arn,
            'Condition': {'ArnLike': {'aws:SourceArn': topics[0] if len(topics) == 1 else topics}},
        })
        self._queues.call(
            queue, 'set_queue_attributes', deadline,
            Attributes={'Policy': dumps({**policy, 'Statement': statements})},
        )  # fmt: skip

    def unbind(self, exchange: str, queue: str, deadline: runtime.Deadline) -> None:
        """End the subscription of a queue; none is fine. Switches: if there is one.

        Raises:
            UnableToUnsubscribeQueueFromTopicException: SNS refuses.
        """
        subscription = self._subscribed.pop((exchange, queue), None)
        if subscription is None:
            return
        try:
            self._call(exchange, 'unsubscribe', deadline, SubscriptionArn=subscription)
        except OperationalError as error:
            raise UnableToUnsubscribeQueueFromTopicException(f'{queue} from {exchange}: {error}') from error

    def queue_gone(self, queue: str, deadline: runtime.Deadline) -> None:
        """A queue is deleted: end its subscriptions. Switches: if it has any."""
        for exchange, name in list(self._subscribed):
            if name == queue:
                self.unbind(exchange, queue, deadline)

    def _clean(self, exchange: str, topic: str, deadline: runtime.Deadline) -> None:
        """Once a topic and process: end subscriptions of queues that are gone."""
        if self._exchanges or topic in self._cleaned:
            return
        self._cleaned.add(topic)
        params: dict[str, Any] = {'TopicArn': topic}
        while True:
            answer = self._call(exchange, 'list_subscriptions_by_topic', deadline, **params)
            for each in answer.get('Subscriptions') or ():
                if each.get('Protocol') == 'sqs' and each['SubscriptionArn'].startswith('arn:'):
                    self._clean_one(exchange, each, deadline)
            if not answer.get('NextToken'):
                return
            params['NextToken'] = answer['NextToken']

    def _clean_one(self, exchange: str, subscription: Mapping[str, Any], deadline: runtime.Deadline) -> None:
        name = subscription['Endpoint'].rpartition(':')[2]
        try:
            self._queues.aws().call('sqs', 'get_queue_url', deadline, QueueName=name)
        except DoesNotExistQueueException:
            logger.info('the queue %r is gone: its subscription to %r ends', name, exchange)
            self._call(exchange, 'unsubscribe', deadline, SubscriptionArn=subscription['SubscriptionArn'])
        except KombuError as error:  # perhaps we may not ask: then it stays
            logger.info('could not tell whether the queue %r is still there: %s', name, error)

    # ---- publish

    def put(self, items: list[Put], deadline: runtime.Deadline) -> list[Exception | None]:
        """Publish messages to the topics of their exchanges. Switches: yes."""
        outcomes: list[Exception | None] = [None] * len(items)
        by_exchange: dict[str, list[int]] = {}
        for at, item in enumerate(items):
            by_exchange.setdefault(item.exchange, []).append(at)
        for exchange, places in by_exchange.items():
            try:
                for begin in range(0, len(places), ENTRIES):
                    part = places[begin : begin + ENTRIES]
                    answer = self._publish(exchange, [(items[at], at) for at in part], deadline)
                    for failed in answer.get('Failed') or ():
                        text = f'{exchange}: {failed.get("Message")} ({failed["Code"]})'
                        outcomes[int(failed['Id'])] = refusal(failed['Code'], text)
            except (ConnectionLost, TimeoutError):
                raise
            except Exception as error:  # of those of this exchange alone
                for at in places:
                    outcomes[at] = outcomes[at] or error
        return outcomes

    def _publish(
        self, exchange: str, items: list[tuple[Put, int]], deadline: runtime.Deadline
    ) -> dict[str, Any]:
        again = True
        while True:
            topic = self.arn(exchange, deadline)
            entries = [_entry(item, at, is_fifo(topic)) for item, at in items]
            try:
                return self._call(
                    exchange, 'publish_batch', deadline,
                    TopicArn=topic, PublishBatchRequestEntries=entries,
                )  # fmt: skip
            except DoesNotExistQueueException as error:
                # Somebody deleted the topic: it is made again, but for those that are not ours to make.
                self._arns.pop(exchange, None)
                if self._exchanges or not again:
                    raise UndefinedExchangeException(f'no topic of {exchange!r}: {error}') from error
                again = False


def _entry(item: Put, at: int, fifo: bool) -> dict[str, Any]:
    properties = item.message['properties']
    entry: dict[str, Any] = {'Id': str(at), 'Message': envelope.plain(item.message)}
    if fifo:
        entry['MessageGroupId'] = properties.get('MessageGroupId') or 'default'
        entry['MessageDeduplicationId'] = (
            properties.get('MessageDeduplicationId') or properties['delivery_tag']
        )
    attributes = properties.get(envelope.ATTRIBUTES)
    if attributes:
        entry['MessageAttributes'] = {
            str(name): {'DataType': 'String', 'StringValue': str(value)} for name, value in attributes.items()
        }
    return entry
