"""The lower-case words that are one token each.

The numbers of the tokens follow from the order here: after a change, checkpoints of before go with the tokenizer
saved beside them, not with the shipped one.
"""

_WORDS = """
user assistant system
what which how is are the a an in on of to at from with and or not does do say read copy count there see you
value values next line text many much colour have has it its this that
circle square triangle star circles squares triangles stars
red green blue yellow black white orange purple yes no
word words written sign image picture page name
bar bars slice slices point points chart graph highest lowest largest smallest most least
under over left right top bottom middle between above below
number title label document table row column cell field entry
question options please select correct answer using single phrase only give letter choice directly best one
"""

_TAILS = "uestion ptions lease nswer"

PROMPT_WORDS: tuple[str, ...] = tuple(_WORDS.split())
"""Words, each a token with a space before it and a token without."""

WORD_TAILS: tuple[str, ...] = tuple(_TAILS.split())
"""What follows the capital of a capitalised prompt word (Question, Options, Please, Answer)."""
