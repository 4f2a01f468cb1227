"""OpenVINO is imported the package's way before any test imports it: without its telemetry."""

from cellseg1_rt.backends.openvino import cpu_capabilities

cpu_capabilities()
