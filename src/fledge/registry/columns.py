"""Names of input columns of a release besides its prompt's variables."""

MESSAGES = "messages"
BARE = 0  # pandas' name for the column of an unnamed text
