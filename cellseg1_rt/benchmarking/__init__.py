"""What ``cellseg1-rt benchmark`` measures: stages, ceilings, the plain path, labels beside speeds.

May import what ``jobs`` may; torch and segment-anything only in the files named ``plain_*``, which
are imported where the plain path is asked for.
"""
