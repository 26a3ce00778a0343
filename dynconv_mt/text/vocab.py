"""The four ids that every vocabulary of this project begins with."""

BOS, PAD, EOS, UNK = 0, 1, 2, 3
SPECIAL_PIECES = ("<s>", "<pad>", "</s>", "<unk>")  # SPECIAL_PIECES[BOS] == "<s>"
