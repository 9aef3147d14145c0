"""Repositories of the Hugging Face Hub: what is read, and what is uploaded."""
