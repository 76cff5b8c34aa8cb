"""Where the FME SDK is taken hold of: its modules by name, checked before anything is replaced.

Up to 1.21 the SDK lives in the package ``vwo``; from 1.65 on the core is the package
``wingify`` and ``vwo`` is a facade over it.  Both have the same seam.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any

from vwo_fast._sdk import check, installed_version, unsupported

__all__ = ["Seam", "find", "installed_brand"]

VWO_DISTRIBUTION = "vwo-fme-python-sdk"
WINGIFY_DISTRIBUTION = "wingify-fme-python-sdk"
SUPPORTED = f"{VWO_DISTRIBUTION} 1.21 and 1.65, {WINGIFY_DISTRIBUTION} 1.65"

_OLD_NAMES = ("VWOBuilder", "VWOClient")
_QUEUE_USERS = (
    "api.set_attribute_api.SetAttributeApi.create_and_send_impression_for_attribute",
    "api.track_api.TrackApi.create_and_send_impression_for_track",
    "utils.event_util.send_sdk_init_event",
    "utils.event_util.send_sdk_usage_stats_event",
    "utils.impression_util.send_impression_for_variation_shown",
    "utils.impression_util.send_impression_for_variation_shown_batch",
)
"""Functions that put an event into the batch queue, if there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seam:
    """The parts of the installed SDK that the adapter works with."""

    entry: ModuleType
    """Module whose ``init`` is called."""
    core: ModuleType
    """Module that makes the builder when ``init`` runs."""
    builder_name: str
    client: Any
    settings_manager: Any
    network_manager: Any
    response_model: Any
    version: str


def find(brand: str) -> Seam:
    """The installed SDK. ``brand``: "vwo" or "wingify". Raises UnsupportedSdkError."""
    distribution, version = _installed(brand)
    try:
        # The FullStack SDK owns a package "vwo" too, and has no builder.
        package = "wingify" if _has_module("wingify.wingify") else "vwo"
        core = import_module(f"{package}.{package}")
        entry = import_module(brand if package == "wingify" else package)
        builder_name, client_name = ("WingifyBuilder", "WingifyClient") if package == "wingify" else _OLD_NAMES
        seam = Seam(
            entry=entry,
            core=core,
            builder_name=builder_name,
            client=getattr(import_module(f"{package}.{package}_client"), client_name),
            settings_manager=import_module(f"{package}.services.settings_manager").SettingsManager,
            network_manager=import_module(f"{package}.packages.network_layer.manager.network_manager").NetworkManager,
            response_model=import_module(f"{package}.packages.network_layer.models.response_model").ResponseModel,
            version=import_module(f"{package}.constants.Constants").Constants.SDK_VERSION,
        )
        problem = _problem(seam, package)
    except (ImportError, AttributeError) as exc:
        raise unsupported(distribution, version, f"its parts are not where they should be ({exc})", SUPPORTED) from exc
    if problem:
        raise unsupported(distribution, version or seam.version, problem, SUPPORTED)
    return seam


def installed_brand() -> str:
    """The brand of the installed distribution: "wingify" only when no other is there."""
    is_wingify = installed_version(WINGIFY_DISTRIBUTION) and not installed_version(VWO_DISTRIBUTION)
    return "wingify" if is_wingify else "vwo"


def _installed(brand: str) -> tuple[str, str | None]:
    """Name and version to speak of: the brand's distribution, or one that owns a package of the same name."""
    first = WINGIFY_DISTRIBUTION if brand == "wingify" else VWO_DISTRIBUTION
    for distribution in (first, WINGIFY_DISTRIBUTION, VWO_DISTRIBUTION, "vwo-python-sdk"):
        version = installed_version(distribution)
        if version:
            return distribution, version
    return first, None


def _has_module(name: str) -> bool:
    try:
        import_module(name)
    except ImportError:
        return False
    return True


def _problem(seam: Seam, package: str) -> str | None:
    builder = getattr(seam.core, seam.builder_name)
    checks = {
        "init": check(getattr(seam.entry, "init", None), parameters=("options",)),
        f"{seam.builder_name}.init_batching": check(builder.init_batching, names=("batch_event_queue",)),
        f"{seam.builder_name}.set_network_manager": check(builder.set_network_manager, names=("attach_client",)),
        f"{seam.builder_name}.build": check(builder.build, parameters=("settings",)),
        "client.get_instance": check(seam.client.get_instance),
        "client.flush_events": check(
            seam.client.flush_events, names=("batch_event_queue", "batch_queue", "flush_and_clear_timer")
        ),
        "NetworkManager.post": check(seam.network_manager.post, names=("client", "post")),
        "NetworkManager.__init__": check(seam.network_manager.__init__, names=("should_use_threading",)),
        "SettingsManager.__init__": check(
            seam.settings_manager.__init__, names=("is_gateway_service_provided", "hostname", "protocol", "port")
        ),
    }
    for path in _QUEUE_USERS:
        checks[path] = check(_attribute(package, path), names=("batch_event_queue", "enqueue"))
    orchestrator = getattr(seam.core, "Wingify" if package == "wingify" else "VWO")
    checks["set_instance"] = check(orchestrator.set_instance, names=(seam.builder_name, "init_batching"))
    broken = [f"{name} {why}" for name, why in checks.items() if why]
    return broken[0] if broken else None


def _attribute(package: str, path: str) -> Any:
    parts = path.split(".")
    found: Any = import_module(f"{package}.{parts[0]}.{parts[1]}")
    for part in parts[2:]:
        found = getattr(found, part, None)
    return found
