"""``cellseg1-rt info``."""

from __future__ import annotations

from typing import Annotated

import typer


def info(
    bundle: Annotated[
        str | None, typer.Argument(help="A bundle's folder, or 'tiny', to describe and check.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Machine-readable, stable.")] = False,
) -> None:
    """What is installed, what is missing and how to get it; or what a bundle is."""
    from json import dumps

    from cellseg1_rt.diagnostics import describe_bundle, describe_installation

    described = describe_installation() if bundle is None else describe_bundle(bundle)
    if json:
        print(dumps(described, indent=2))
        return
    for section, values in described.items():
        if not isinstance(values, dict):
            print(f"{section:20} {values}")
            continue
        print(section)
        for name, value in values.items():
            print(f"  {name:20} {value}")
