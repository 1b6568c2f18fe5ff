"""Names of the columns of a release's input that are not its prompt's variables."""

MESSAGES = "messages"
BARE = 0  # what pandas calls the column of a text that has no name
