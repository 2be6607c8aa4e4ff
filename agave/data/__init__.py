"""Images: where they come from (the registry is in `sources`), and how they are stored and read (`arrays`).

Every step that reads images imports this file. The registry is not here, because a change of one source would then count as a change
of the code of all trainings.
"""
