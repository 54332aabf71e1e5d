"""The fault suite: faults in numbers, and a ledger of each call that is kept outside the system (`make faults`).

`rows` has one file for each kind of fault. `ledger` decides what is right, `upstream` says what no two attempts say alike,
`rig` starts and breaks systems, `clients` call them, `guards` removes one guard at a time for the negative controls.
"""
