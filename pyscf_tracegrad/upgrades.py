"""Checkpoints of older formats, brought up to date step by step.

Each step takes the content of a file of one version to the next. Steps are never changed once released; a small file of
every version stays in `tests/fixtures`. Number the next one when a setting or a name of the state changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Content = dict[str, Any]

# Where version 2 has the decoders, which were the model's own before backbones had theirs.
_MOVED = {"site_decoder.": "backbone.site_decoder.", "pair_decoder.": "backbone.pair_decoder."}


def _renamed(state: Mapping[str, Any]) -> Content:
    names = {"element.weight": "backbone.decoder_element.weight"}
    for name in state:
        for old, new in _MOVED.items():
            if name.startswith(old):
                names[name] = new + name.removeprefix(old)
    return {names.get(name, name): value for name, value in state.items()}


def _from_1(data: Content) -> Content:
    """1 -> 2: backbones own their decoders; `tracegrad` is told apart into `gradient` and `traces`."""
    config = dict(data["config"])
    tracegrad = config.pop("tracegrad")
    config |= {"gradient": tracegrad, "traces": tracegrad, "inputs": "all"}
    return data | {"config": config, "state": _renamed(data["state"]), "version": 2}


def _from_2(data: Content) -> Content:
    """2 -> 3: references may be mixed, and dF need not be centred."""
    config = dict(data["config"])
    config |= {"reference": config["reference"] | {"mixing": "damped"}, "centre": True}
    return data | {"config": config, "version": 3}


_STEPS: dict[int, Callable[[Content], Content]] = {1: _from_1, 2: _from_2}
VERSION = 3


def upgrade(data: Content) -> Content:
    """Content of a checkpoint in the present format.

    Raises ValueError for a version that this release does not know, and for content that is not of its version.
    """
    known = (*_STEPS, VERSION)
    if data.get("version") not in known:
        raise ValueError(
            f"format version {data.get('version')!r}, this release reads versions {min(known)} to {VERSION}; "
            "install the release that wrote it, or export the model again"
        )
    while data["version"] != VERSION:
        version = data["version"]
        try:
            data = _STEPS[version](data)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"its content is not that of format version {version} ({error!r})") from None
    return data
