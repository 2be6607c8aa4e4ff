"""Images: where they come from (`sources` is the registry), and how they are stored and read (`arrays`).

Every step that reads images imports this file, so the registry does not lie here: else a change of one source would count as a change of
the code of all trainings.
"""
