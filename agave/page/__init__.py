"""The page "the paper, reproduced": one self-contained html file of figures, tables and verdicts, from small files alone, without torch."""
