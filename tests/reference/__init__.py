"""The slow, readable reference: CellSeg1's inference, reading and training rules.

It says what the fast runtime must give, mask by mask and in plain numpy, torch, pillow and scipy.
It shares no code with ``cellseg1_rt`` and imports nothing of it, so that one mistake cannot hide
in both.

- ``rules``: every rule of "Inference, in order" in a table that can be changed; the rules
  themselves are in ``rules_prompts``, ``rules_masks`` and ``rules_regions``.
- ``inference``: the order in which the rules are applied.
- ``margins``: how far each decision was from going the other way.
- ``reading``: from pixels of any kind to uint8 RGB.
- ``model``: SAM in plain PyTorch, as a predictor.
- ``fake``: a model made of given scores and logits, for the reference and for the runtime alike.
- ``training_data``, ``training``: tiles, points and augmentation, and one step of the recipe.
- ``cases_*``: inputs made so that one rule decides, with that rule broken on purpose.
"""
