"""A hospital's time with its models: sessions, their training steps, and how these are carried out,
launched one by one or recorded for a card.
"""
