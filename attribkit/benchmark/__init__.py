"""How faithful attributions are, over many images: what is run, what is kept, and what the numbers say."""
