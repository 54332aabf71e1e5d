"""The workers, one package each. Handlers never see the broker; each package has a short `__main__`."""
