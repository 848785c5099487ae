"""As whom to call: the login of the URL, those of predefined queues and exchanges, and assumed roles."""

from __future__ import annotations

from collections.abc import Mapping
from os import environ
from typing import Any

from greenmq import runtime
from greenmq.transport import http
from greenmq.transport.driver import Place
from greenmq.transport.SQS.aws import AWS, Keys, Login
from greenmq.transport.SQS.names import region_of, where

__all__ = ('Logins',)

#: What kombu calls the session of an assumed role: policies may name it.
ROLE_SESSION = 'Celery'


class Logins:
    """Who calls, for each queue and exchange; made when first asked for.

    Arguments:
        place (Place), settings (Mapping): of the driver. client (http.Client): our HTTP.
    """

    def __init__(self, place: Place, settings: Mapping[str, Any], client: http.Client) -> None:
        self.place = place
        self._settings = settings
        self._http = client
        self._made: dict[Any, AWS] = {}
        self._keys: dict[Any, Keys] = {}
        self._paces: dict[str, http.Pace] = {}

    def of_queue(self, facts: Mapping[str, Any] | None) -> AWS:
        """Who calls SQS.

        Arguments:
            facts (Mapping | None): of a predefined queue; None for the login of the URL.
        """
        return self._of(facts, region_of(_host(facts.get('url', ''))) if facts else None)

    def of_exchange(self, facts: Mapping[str, Any] | None) -> AWS:
        """Who calls SNS; `facts` of a predefined exchange."""
        arn = (facts or {}).get('arn', '').split(':')
        return self._of(facts, arn[3] if len(arn) > 3 else None)

    def _of(self, facts: Mapping[str, Any] | None, their_region: str | None) -> AWS:
        settings, place = self._settings, self.place
        facts = facts or {}
        there = where(place.host, place.port, settings['region'], settings['is_secure'])
        own = (facts.get('access_key_id'), facts.get('secret_access_key'), facts.get('session_token'))
        login = Login(*own) if own[0] else Login(place.userid, place.password, settings['session_token'])
        region = facts.get('region') or (their_region if not place.host else None) or there.region
        role = settings['sts_role_arn'] if facts else None
        key = (login, region, role, there.endpoint)
        found = self._made.get(key)
        if found is None:
            endpoints = {'sqs': there.endpoint, 'sns': settings['sns_endpoint'] or there.endpoint}
            found = self._made[key] = AWS(
                self._http, self._keys_of(login, role, region), region, endpoints,
                settings['client-config'] or {}, self._paces,
            )  # fmt: skip
        return found

    def _keys_of(self, login: Login, role: str | None, region: str | None) -> Keys:
        known = self._keys.get((login, role))
        if known is not None:
            return known
        if role is None:
            keys = Keys(login)
        else:
            settings = self._settings
            endpoint = settings['sts_endpoint'] or environ.get('AWS_ENDPOINT_URL_STS')
            sts = AWS(
                self._http, self._keys_of(login, None, region), region, {'sts': endpoint},
                settings['client-config'] or {}, self._paces,
            )  # fmt: skip

            def assume(deadline: runtime.Deadline) -> Any:
                return sts.call(
                    'sts', 'assume_role', deadline, RoleArn=role, RoleSessionName=ROLE_SESSION,
                    DurationSeconds=settings['sts_token_timeout'],
                )  # fmt: skip

            keys = Keys(login, assume, settings['sts_token_buffer_time'])
        self._keys[login, role] = keys
        return keys

    def stats(self) -> dict[str, int]:
        """How many calls were made, and throttled."""
        made = list(self._made.values())
        return {'calls': sum(aws.calls for aws in made), 'throttled': sum(aws.throttles for aws in made)}


def _host(url: str) -> str:
    from urllib.parse import urlsplit

    return urlsplit(url).hostname or ''
