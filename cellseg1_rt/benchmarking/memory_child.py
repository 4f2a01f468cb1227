"""The program of the process that ``memory`` starts: load, segment one image, print two sizes.

Its argument is a JSON object: ``path`` (``plain`` or a runtime), ``precision``, ``bundle``,
``image``, ``threads``, ``prompt_batch`` and ``settings``. It prints the largest resident size in
bytes after loading and at the end. Imports torch for ``plain`` only.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from cellseg1_rt.benchmarking.memory import peak_bytes
from cellseg1_rt.contract import read_manifest
from cellseg1_rt.settings import InferenceSettings


def main(request: dict[str, Any]) -> None:
    """Run one image and print [bytes after loading, bytes in the end]."""
    bundle, image = Path(request["bundle"]), Path(request["image"])
    if request["path"] == "plain":
        from cellseg1_rt.benchmarking.plain_contender import PlainContender

        settings = InferenceSettings.from_dict(request["settings"])
        plain = PlainContender(bundle, read_manifest(bundle), settings, request["threads"])
        loaded = peak_bytes()
        plain.run(image)
    else:
        from cellseg1_rt.formats import read_image
        from cellseg1_rt.runtime.model import load

        model = load(
            bundle,
            runtime=request["path"],
            precision=request["precision"],
            threads=request["threads"],
            prompt_batch=request["prompt_batch"],
            **request["settings"],
        )
        loaded = peak_bytes()
        model.segment(read_image(image).pixels, name=image)
    print(json.dumps([loaded, peak_bytes()]))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
