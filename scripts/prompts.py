"""Prompts for a teacher that writes the texts of its student (mlx-llamba synthesize --prompts).

usage: prompts.py KIND COUNT SEED OUTPUT.jsonl [test]
       KIND is stories, chats, documents, or mix: all three, 8 : 9 : 3. COUNT different prompts are written.

A prompt is composed of a subject and of what is asked about it (a hero and what happens, a topic and a question),
of which there are thousands, and of details. A hash of the composition decides whether it is for training or for
`test`, so that the two share no composition, whatever their seeds. Stories and chats are messages, to be rendered
with the teacher's own template; documents are beginnings of texts.
"""

import hashlib
import json
import random
import re
import sys

from topics import ANIMALS, EVENTS, MOODS, NAMES, PEOPLE, PLACES, WORDS, listed

# One in this many compositions is for tests.
TEST = 16
SMALL = "a and after in of on the with for".split()
KINDS = {"stories": 8, "chats": 9, "documents": 3}

TOPICS = """photosynthesis|gravity|the water cycle|volcanoes|the moon|electricity|magnets|the human heart|bacteria|
viruses|vaccines|DNA|evolution|dinosaurs|black holes|stars|planets|the sun|rain|earthquakes|tides|climate change|
recycling|solar power|wind power|batteries|computers|the internet|computer programming|algorithms|databases|machine
learning|encryption|smartphones|cars|airplanes|bicycles|trains|ships|bridges|the Roman Empire|ancient Egypt|the Middle
Ages|the Renaissance|the French Revolution|World War I|World War II|the Cold War|the printing press|democracy|taxes|
inflation|banks|the stock market|supply and demand|insurance|budgeting|saving money|fractions|percentages|prime
numbers|geometry|probability|statistics|algebra|calculus|music theory|the piano|the guitar|jazz|opera|painting|
photography|sculpture|poetry|novels|Shakespeare|fairy tales|myths|theater|movies|chess|soccer|swimming|running|yoga|
sleep|healthy eating|vitamins|exercise|stress|meditation|first aid|the brain|memory|habits|friendship|leadership|
teamwork|public speaking|job interviews|time management|gardening|composting|bees|trees|mushrooms|oceans|coral reefs|
whales|sharks|birds|cats|dogs|horses|elephants|ants|butterflies|bread|cheese|coffee|tea|chocolate|salt|sugar|soap|
glass|paper|steel|plastic|gold|diamonds|oil|coal|nuclear energy|rockets|satellites|the speed of light|sound|color|
temperature|atoms|molecules|acids|metals|the periodic table|philosophy|ethics|logic|psychology|language|grammar|
translation|maps|time zones|the calendar|holidays|weddings|travel|hotels|camping|hiking|fishing|cooking|baking|
knitting|sewing|carpentry|cleaning|laundry|moving house|pets|babies|school|universities|libraries|museums|hospitals|
the police|courts|elections|newspapers|advertising|small businesses|farming|rice|wheat|potatoes|tomatoes|apples|
France|Japan|Brazil|Kenya|India|China|Canada|Mexico|Italy|Egypt|Australia|Norway|Paris|London|Tokyo|New York|the
Sahara|the Amazon|the Alps|Antarctica|lighthouses|windmills|clocks|mirrors|umbrellas|robots|drones|3D printing|video
games|board games|podcasts|email|passwords|spreadsheets|version control|open source software|web servers|operating
systems|compilers|data structures|unit tests|artificial intelligence|self-driving cars|electric cars|public transport|
city planning|housing|immigration|human rights|the United Nations|trade|contracts|patents|retirement|teaching|
homework|learning a language|reading|writing letters|keeping a diary|drawing|dancing|singing|juggling|origami|
astronomy|weather forecasts|glaciers|deserts|rainforests|rivers|islands|caves|soil|seeds|flowers|owls|frogs|spiders|
penguins|wolves|honey|pasta|soup|breakfast|spices|wool|cotton|silk|shoes|hats|furniture|bricks|concrete|tunnels|
elevators|refrigerators|microscopes|telescopes|thermometers|x-rays|antibiotics|teeth|bones|muscles|blood|the lungs|the
immune system|allergies|headaches|colds|nutrition labels|aging|grief|gratitude|courage|honesty|boredom|jealousy|
curiosity|creativity|humor|silence""".replace("\n", " ")
# Questions about a topic {t}, perhaps with another, {u}, a tone {n} and a person {p}.
QUESTIONS = """What is {t}?|Why is {t} important?|How does {t} work?|Tell me about {t}.|Explain {t} to a child.|Explain
{t} in simple words.|Explain {t} to {p}.|What are three facts about {t}?|What are the advantages and disadvantages of
{t}?|Write a short paragraph about {t}.|Give me five tips about {t}.|What is the history of {t}?|Summarize what people
should know about {t}.|What is the difference between {t} and {u}?|How are {t} and {u} related?|Write a {n}
introduction to {t}.|Write a list of questions about {t}.|What are common misconceptions about {t}?|How has {t} changed
over time?|Can you help me understand {t}?|I have to give a talk about {t}. What should I say?|Write a short essay about
{t} and {u}.|What would the world be like without {t}?|Give an example of {t} in everyday life.|Write a poem about
{t}.|Make a quiz with four questions about {t}.|I am {p} and I want to learn about {t}. Where do I start?|Write a
dialogue between {p} and {p2} about {t}.|Write a {n} letter to {r} about {t}.|Write a {n} email to {r} about {t}. Sign
it as {name}.|Write a {n} speech about {t}.|Give me ten words that have to do with {t}, with their meanings.|What do
experts disagree about when it comes to {t}?|Suggest a title for an article about {t} and {u}.|What should I read about
{t}?|How would {p} describe {t}?|Write a slogan for a campaign about {t}.|Plan a lesson about {t} for {p}.|What could go
wrong with {t}?|Write a short news report about {t}.|Write three riddles about {t}.|Is {t} overrated? Give a {n}
answer.|Compare {t} with {u} in a table.|What is your favorite thing about {t}?|Write a {n} message that invites {r} to an
event about {t}.|How much does {t} cost, and why?|Rewrite this in a {n} way: "I never understood {t}."|Continue this
sentence: "The first time I saw anything of {t},"|Give me a metaphor for {t}.|List the steps of a project about {t}."""
READERS = """my landlord|my boss|a customer|my grandmother|a friend who moved away|the city council|a teacher|a hotel|my
neighbor|a pen pal|an old classmate|the bank|a doctor|a newspaper|the school principal|my brother|my team|a job
applicant|a supplier|a museum"""
TONES = "friendly formal short polite funny serious warm simple detailed enthusiastic honest calm".split()
# Other things that are asked for: a frame, and what stands in it.
ASKED = [
    ("""Give me a recipe for {}.|How do I make {}?|What ingredients do I need for {}?|Write a simple recipe for {} for four
     people.|What goes well with {}?|Who invented {}?""",
     """tomato soup|pancakes|apple pie|vegetable curry|fried rice|chicken stew|spaghetti with tomato sauce|a green
     salad|lentil soup|chocolate cake|banana bread|an omelette|pizza|roasted potatoes|fish tacos|bean chili|oatmeal
     cookies|mushroom risotto|lemonade|sandwiches for a picnic|garlic bread|dumplings|rice pudding|pumpkin soup|a
     smoothie|scrambled eggs|waffles|hummus|onion rings|strawberry jam"""),
    ("""Describe {}.|Describe {} in three sentences.|Describe {} to someone who has never seen it.|Describe {} using all
     five senses.|Write a haiku about {}.|Write the first paragraph of a novel that begins with {}.""",
     """a rainy street|a busy kitchen|an old clock|a mountain lake at sunrise|a crowded market|a quiet library|a
     thunderstorm|a birthday cake|a train station at night|a garden in spring|a desert at noon|a fishing boat|a winter
     forest|an empty theater|a city skyline|a small bakery|a wooden chair|a castle on a hill|a night sky|a classroom|a
     beach in autumn|a lighthouse in fog|a farm in the morning|an attic full of boxes|a spaceship cabin"""),
    ("""Write a Python function that {}.|Write a JavaScript function that {}.|How do I write a program that {}?|Write a
     unit test for a function that {}.|Explain step by step how a program {}.""",
     """reverses a string|finds the largest number in a list|counts the words in a text|checks whether a number is
     prime|sorts a list of names|reads a file line by line|computes a factorial|merges two dictionaries|removes duplicates
     from a list|converts Celsius to Fahrenheit|finds the longest word|checks whether a word is a palindrome|computes the
     mean and the median|counts the vowels|prints a multiplication table|rolls two dice|generates a password|parses a
     date|finds common elements of two lists|computes Fibonacci numbers|validates an email address|rounds a number|draws
     a triangle of stars|splits a list into chunks|sums the digits of a number"""),
    ("""Give me advice: {}.|{}. What should I do?|Write a letter to an advice column: {}.|My friend says: "{}." How do I
     answer?|Make a plan for me. {}.""",
     """I cannot fall asleep at night|I argue with my sister a lot|I want to change my job|My plants keep dying|I forget
     names all the time|I am nervous about an exam|My computer is slow|I spend too much money|I feel lonely in a new
     city|I want to run a marathon|My neighbor is too loud|I have to move in two weeks|My dog barks all day|I want to
     eat less sugar|I cannot say no to people|My child does not like to read|I lost my wallet|I am bored at work|I want to
     learn to cook|My bike was stolen"""),
]
# Sides of a topic.
SIDES = """the future of {}|the beauty of {}|the science of {}|the economics of {}|teaching {}|{} in Japan|{} in Africa|{}
in the home|{} in literature|{} after the war|{} for beginners|{} on a budget|{} in the digital age|{} and children|{} and
the law|{} in winter|the language of {}|the myths of {}|{} in small towns|a life with {}"""
# Beginnings of documents about {t}.
TITLES = r"""# {T}\n\n|# {T}: An Introduction\n\n|# A Beginner's Guide to {T}\n\n|# The History of {T}\n\n|{T}\n\n1.
|# Frequently Asked Questions About {T}\n\n|# How to Get Started With {T}\n\n## Overview\n\n|# {T} and {U}\n\n|Abstract:
This paper is about {t}.|Chapter 1: {T}\n\n|# Lesson Plan: {T}\n\nGrade level:|In this article, we will explore {t}|The
most important thing to know about {t} is|When it comes to {t},|Question: What is {t}?\nAnswer:|Ten Facts About
{T}\n\n|{T} is|# Glossary of {T}\n\n|Review: A Book About {T}\n\n|# User Manual\n\n## {T}\n\n|Have you ever wondered about
{t}?|Dear reader,\n\nToday we will talk about {t}|# Notes on {T}\n\n-|## Summary\n\n{T}|Once, people knew nothing about
{t}.|How {T} Changed {U}\n\nBy {name}\n\n|Interviewer: What can you tell us about {t}?\nExpert:|Press release\n\nA new
study about {t}|The teacher wrote on the board: {t}."""


def article(phrase):
    return f"{'an' if phrase[0] in 'aeiou' or phrase.startswith('honest') else 'a'} {phrase}"


def title(text):
    return " ".join(word if word in SMALL else word[0].upper() + word[1:] for word in text.split())


def story(r):
    """A request for a story; its composition is the hero and what happens."""
    who = r.choice(ANIMALS if r.random() < 0.6 else PEOPLE).replace("_", " ")
    name, place, event = r.choice(NAMES), r.choice(listed(PLACES)), r.choice(listed(EVENTS))
    hero, kind = article(f"{r.choice(MOODS)} {who}"), r.random()
    if kind < 0.6:
        text = f"Write a short, simple story for young children about {hero} named {name} {place} who {event}."
    elif kind < 0.8:
        text = f"Write {article(r.choice(TONES))} story about {hero} who {event} {place}."
    else:
        friend = article(f"{r.choice(MOODS)} {r.choice(ANIMALS)}").replace("_", " ")
        text = f"Tell me a story about {name}, {hero} who {event}, and {r.choice(NAMES)}, {friend}."
    if r.random() < 0.5:
        text += " Use short sentences and easy words."
    if r.random() < 0.5:
        text += ' Use the words "{}" and "{}".'.format(*r.sample(WORDS, 2))
    if r.random() < 0.4:
        text += " Start the story right away."
    return {"messages": [{"role": "user", "content": text}]}, f"{who}|{event}"


def filled(form, r, sides):
    """A form with its topics and details; its composition is the form and the topic, or a side of it."""
    topic, other = r.sample(listed(TOPICS), 2)
    about = r.choice(listed(SIDES)).format(topic) if r.random() < sides else topic
    person, person2 = (article(f"{r.choice(MOODS)} {r.choice(PEOPLE)}").replace("_", " ") for _ in range(2))
    text = form.format(t=about, u=other, T=title(about), U=title(other), n=r.choice(TONES), p=person, p2=person2,
                       r=r.choice(listed(READERS)), name=r.choice(NAMES))
    return re.sub(r"\b(a)(?= (?:enthusiastic|honest))", r"\1n", text), f"{form}|{about}"


def chat(r):
    """A question; its composition is the form and the topic."""
    kind = r.random()
    if kind < 0.75:
        text, composition = filled(r.choice(listed(QUESTIONS)), r, sides=0.4)
    elif kind < 0.8:
        a, b, sign = r.randint(2, 99), r.randint(2, 99), r.choice(["plus", "minus", "times"])
        text = f"What is {a} {sign} {b}?" + r.choice(["", " Explain how you get it.", " Answer with a number."])
        composition = f"{a}{sign}{b}"
    else:
        forms, things = r.choice(ASKED)
        form, thing = r.choice(listed(forms)), r.choice(listed(things))
        text, composition = form.format(thing), f"{form}|{thing}"
    if r.random() < 0.4:
        text += r.choice([" Keep it short.", " Be specific.", f" Use {article(r.choice(TONES))} tone.", " Give reasons.",
                          f" It is for {article(r.choice(PEOPLE))}.".replace("_", " "), " Write at least 200 words."])
    return {"messages": [{"role": "user", "content": text}]}, composition


def document(r):
    """The beginning of a document; its composition is the form and the topic."""
    text, composition = filled(r.choice(listed(TITLES)).replace("\\n", "\n"), r, sides=0.6)
    return {"text": text}, composition


MAKERS = {"stories": story, "chats": chat, "documents": document}


def is_test(kind, composition):
    digest = hashlib.sha256(f"{kind}|{composition}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % TEST == 0


def prompts(kind, count, seed, output, split="train"):
    wanted, count = {"train": False, "test": True}[split], int(count)
    r, seen, tries = random.Random(f"{kind}|{seed}|{split}"), set(), 0
    kinds = KINDS if kind == "mix" else {kind: 1}
    with open(output, "w") as lines:
        for _ in range(count):
            one, line = r.choices(list(kinds), list(kinds.values()))[0], None
            while line is None:
                prompt, composition = MAKERS[one](r)
                if is_test(one, composition) == wanted:
                    line = json.dumps({"kind": one, **prompt})
                    line = None if line in seen else line
                tries += 1
                if tries > 100 * count + 10000:
                    sys.exit(f"only {len(seen)} different prompts of {count} were found: ask for fewer")
            seen.add(line)
            lines.write(line + "\n")


if __name__ == "__main__":
    if len(sys.argv) not in (5, 6) or sys.argv[1] not in (*MAKERS, "mix") or sys.argv[5:] not in ([], ["train"], ["test"]):
        sys.exit(__doc__)
    prompts(*sys.argv[1:])
