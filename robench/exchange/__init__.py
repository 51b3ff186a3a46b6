"""Adversarial images and rows taken along to other programs, and images from there judged here."""
