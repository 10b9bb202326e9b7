"""The parts that prompts for a teacher are composed of."""

import functools

ANIMALS = """fox rabbit bear mouse owl cat dog pony duck frog squirrel hedgehog turtle elephant lion penguin deer
goat pig sparrow goldfish wolf dragon robot snail moth calf lamb monkey whale raven spider bee donkey kitten puppy
otter badger seal parrot tiger crab beetle firefly swan goose camel koala panda giraffe zebra octopus dolphin ant
butterfly caterpillar hen rooster sheep cow horse mole beaver chipmunk bat lizard crocodile unicorn snowman ghost
cloud star scarecrow teddy_bear toy_train paper_boat little_witch mermaid giant fairy""".split()
PEOPLE = """girl boy sailor baker farmer teacher queen king knight painter doctor grandmother grandfather gardener
carpenter astronaut violinist librarian shepherd nurse pilot tailor wizard inventor mail_carrier detective cook
clockmaker miner juggler fisherman princess prince pirate drummer dancer firefighter bus_driver twin""".split()
MOODS = """young old shy brave curious lonely clever lazy kind tiny grumpy cheerful clumsy quiet proud gentle hungry
tired honest forgetful stubborn careful playful sleepy worried fast slow silly polite noisy""".split()
NAMES = """Finn Mia Leo Nora Max Luna Sam Ella Tom Ruby Oscar Lily Ben Rosie Jack Anna Hugo Ivy Noah Clara Theo Molly
Arthur Zoe Felix Grace Otto Daisy Henry Maya Pip Bella Gus Willow Kai Sofia Ravi Amina Yuki Pedro Tara Emil Juno Bram
Olga Samir Lena Milo Poppy Hazel Jonah Freya Ned Tilly Omar Priya Chen Inga Paul Rosa Teddy Coco Biscuit Pepper Sunny
Dot Waldo Mabel Nico Alma""".split()
PLACES = """in the park|in the forest|in a small village|at the beach|in the mountains|in a big city|in an old
castle|on the farm|by a quiet lake|at school|in the desert|on an island|in the garden|in the kitchen|in a library|at
the market|on a train|on the moon|in a snowy valley|by the river|in a lighthouse|at the zoo|in an attic|in a bakery|in
a swamp|in a meadow|in a harbor|in a cave|at the museum|in a treehouse|on a ship|at the fair|in a toy shop|under the
sea|on a hill|in the jungle|at a birthday party|in a hospital|at the playground|in the clouds"""
EVENTS = """draws a picture|finds a lost key|makes a new friend|gets lost|learns to swim|builds a boat|shares a
cake|helps a stranger|hears a strange sound|plants a seed|loses a hat|finds a map|wins a race|tells a lie|says
sorry|fixes a broken toy|sees the first snow|writes a letter|sings a song|hides from the rain|finds a treasure|learns
to bake|misses the bus|keeps a secret|saves a bird|faces a fear|has a birthday|looks for a star|opens a box|meets a
ghost|trades a coat|forgets a promise|paints a fence|climbs a tree|flies a kite|digs a hole|wakes up early|counts the
stars|loses a tooth|finds an egg|rides a bicycle|cannot sleep|builds a snowman|learns to dance|catches a cold|cleans the
house|cooks soup|finds a puppy|breaks a vase|plays hide and seek|goes on a picnic|learns to read|visits the moon|follows
a butterfly|finds a magic stone|teaches a friend|grows a giant pumpkin|sails across the sea|looks after a baby|waits
for spring"""
WORDS = """gentle quiet blue happy river moon apple bright soft brave stone cloud warm secret tall sleepy bell golden
wind laugh red candle shadow basket window honey silver whisper feather lantern bridge garden mirror dream sweet winter
leaf door song ship blanket pocket puddle ladder button kettle mountain rainbow pebble nest drum""".split()


@functools.cache
def listed(text):
    return [" ".join(item.split()) for item in text.split("|")]
