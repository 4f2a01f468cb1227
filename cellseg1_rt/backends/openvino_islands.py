"""What stays fp32 when OpenVINO computes a graph in bf16: sines and cosines, and their angles.

A prompt's position is encoded as sin and cos of tens of radians. In bf16 an angle has 8 bits, which
moves a point by pixels: on the packaged bundle that was 10 times the error of all other operations
together. OpenVINO's bf16 spares no operation that a later one multiplies, so the graph is cut in
two models, whatever else is in it. May import openvino.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import openvino as ov

__all__ = ["split_off_sines"]

_PERIODIC = ("Sin", "Cos")


def split_off_sines(model: ov.Model) -> tuple[ov.Model, ov.Model] | None:
    """Cut a model behind its sines and cosines of inputs.

    Parameters
    ----------
    model : is used up: its nodes become those of the second part.

    Returns
    -------
    The part up to and with the sines, whose outputs are named ``sines0``, ``sines1``, …, and the
    rest, which has the model's outputs and takes them besides the model's inputs. None where
    nothing periodic depends on an input.
    """
    from openvino import Model
    from openvino import opset13 as ops

    cuts = [node.output(0) for node in _periodic_nodes(model)]
    if not cuts:
        return None
    for number, output in enumerate(cuts):
        output.get_tensor().set_names({f"sines{number}"})
    # Cloned, since an input of both parts has to be a node of each.
    before = Model([ops.result(output) for output in cuts], model.get_parameters()).clone()
    parameters = []
    for number, output in enumerate(cuts):
        targets = [
            target
            for target in output.get_target_inputs()
            if target.get_node().get_type_name() != "Result"
        ]
        parameter = ops.parameter(output.get_partial_shape(), output.get_element_type())
        parameter.output(0).get_tensor().set_names({f"sines{number}"})
        for target in targets:
            target.replace_source_output(parameter.output(0))
        parameters.append(parameter)
    return before, Model(model.get_results(), [*model.get_parameters(), *parameters])


def _periodic_nodes(model: ov.Model) -> list[ov.Node]:
    """Sines and cosines that depend on an input; those of constants are folded in fp32 anyway."""
    depends: set[str] = set()
    found = []
    for node in model.get_ordered_ops():
        sources = [port.get_source_output().get_node() for port in node.inputs()]
        if node.get_type_name() == "Parameter" or any(
            source.get_friendly_name() in depends for source in sources
        ):
            depends.add(node.get_friendly_name())
            if node.get_type_name() in _PERIODIC:
                found.append(node)
    return found
