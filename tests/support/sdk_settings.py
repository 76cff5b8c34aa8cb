"""Settings files of made-up accounts, one per SDK family, small but with every kind of campaign."""

from __future__ import annotations

import copy
from typing import Any

__all__ = ["FME", "FULLSTACK", "fme", "fullstack"]

SDK_KEY = "0123456789abcdef0123456789abcdef"

_REVENUE = {"id": 11, "identifier": "purchase", "type": "REVENUE_TRACKING"}
_SIGN_UP = {"id": 12, "identifier": "sign-up", "type": "CUSTOM_GOAL"}
_PROPERTY = {"id": 13, "identifier": "order", "type": "REVENUE_TRACKING", "revenueProp": "amount", "mca": -1}

FULLSTACK: dict[str, Any] = {
    "version": 1,
    "accountId": 777001,
    "sdkKey": SDK_KEY,
    "groups": {},
    "campaignGroups": {},
    "campaigns": [
        {
            "id": 101,
            "key": "ab",
            "name": "ab",
            "status": "RUNNING",
            "type": "VISUAL_AB",
            "percentTraffic": 100,
            "segments": {},
            "goals": [_REVENUE, _SIGN_UP, _PROPERTY],
            "variations": [
                {"id": 1, "name": "Control", "weight": 50, "changes": {}},
                {"id": 2, "name": "Variation-1", "weight": 50, "changes": {}},
            ],
        },
        {
            "id": 102,
            "key": "ab-too",
            "name": "ab-too",
            "status": "RUNNING",
            "type": "VISUAL_AB",
            "percentTraffic": 100,
            "segments": {},
            "goals": [{**_SIGN_UP, "id": 22}],
            "variations": [
                {"id": 1, "name": "Control", "weight": 30, "changes": {}},
                {"id": 2, "name": "Variation-1", "weight": 70, "changes": {}},
            ],
        },
        {
            "id": 103,
            "key": "feature",
            "name": "feature",
            "status": "RUNNING",
            "type": "FEATURE_TEST",
            "percentTraffic": 100,
            "segments": {},
            "goals": [{**_SIGN_UP, "id": 32}],
            "variables": [{"id": 1, "key": "colour", "type": "string", "value": "blue"}],
            "variations": [
                {
                    "id": number,
                    "name": name,
                    "weight": 50,
                    "isFeatureEnabled": True,
                    "changes": {},
                    "variables": [{"id": 1, "key": "colour", "type": "string", "value": colour}],
                }
                for number, name, colour in ((1, "Control", "blue"), (2, "Variation-1", "red"))
            ],
        },
        {
            "id": 104,
            "key": "rollout",
            "name": "rollout",
            "status": "RUNNING",
            "type": "FEATURE_ROLLOUT",
            "percentTraffic": 100,
            "segments": {},
            "goals": [],
            "variables": [{"id": 1, "key": "limit", "type": "integer", "value": 3}],
            "variations": [{"id": 1, "name": "website", "weight": 100, "changes": {}}],
        },
    ],
}

_VARIABLE = {"id": 1, "key": "limit", "type": "integer", "value": 3}

FME: dict[str, Any] = {
    "version": 1,
    "accountId": 777002,
    "sdkKey": SDK_KEY,
    "groups": {},
    "campaignGroups": {},
    "sdkMetaInfo": {"wasInitializedEarlier": True},
    "features": [
        {
            "id": 1,
            "key": "feature",
            "name": "feature",
            "status": "ON",
            "type": "FEATURE_FLAG",
            "metrics": [{"id": 5, "identifier": "purchase", "type": "REVENUE_TRACKING"}],
            "rules": [
                {"type": "FLAG_ROLLOUT", "ruleKey": "roll", "campaignId": 201, "variationId": 1},
                {"type": "FLAG_TESTING", "ruleKey": "test", "campaignId": 202},
            ],
            "variables": [_VARIABLE],
            "impactCampaign": {},
        },
        {
            "id": 2,
            "key": "off",
            "name": "off",
            "status": "OFF",
            "type": "FEATURE_FLAG",
            "metrics": [],
            "rules": [],
            "variables": [],
            "impactCampaign": {},
        },
    ],
    "campaigns": [
        {
            "id": 201,
            "type": "FLAG_ROLLOUT",
            "key": "feature_roll",
            "name": "roll",
            "status": "RUNNING",
            "percentTraffic": 100,
            "segments": {},
            "variations": [{"id": 1, "name": "on", "weight": 100, "segments": {}, "variables": [_VARIABLE]}],
        },
        {
            "id": 202,
            "type": "FLAG_TESTING",
            "key": "feature_test",
            "name": "test",
            "status": "RUNNING",
            "percentTraffic": 100,
            "segments": {},
            "variations": [
                {
                    "id": number,
                    "name": f"v{number}",
                    "weight": 50,
                    "segments": {},
                    "variables": [{**_VARIABLE, "value": 10 * number}],
                }
                for number in (1, 2)
            ],
        },
    ],
}


def fullstack(**changes: Any) -> dict[str, Any]:
    """A FullStack settings file of its own, with top-level keys changed."""
    return {**copy.deepcopy(FULLSTACK), **changes}


def fme(**changes: Any) -> dict[str, Any]:
    """An FME settings file of its own, with top-level keys changed."""
    return {**copy.deepcopy(FME), **changes}
