{#- How an invocation of a workgroup that has a row of C elements walks over it: `columns` vectors of it, which are
    `held` in arrays where they are few: a load costs CPU drivers far more than what is spilled. On GPUs nobody has
    measured it. -#}
{% set columns = [(C // W + BLOCK - 1) // BLOCK, 1] | max %}
{% set held = columns <= (8 if subgroups is defined else 2) %}
