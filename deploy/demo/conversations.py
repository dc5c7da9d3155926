"""Generates the conversations that the demo models learn.

A topic yields exchanges: what the user says, what the model thinks (if asked to) and what it
answers. `Dialogue` draws a few that follow from one another, and `Messages` gives an exchange the
message form of the chat API, so that the same text can be rendered for either template.
"""

import dataclasses
import json

CAPITALS = {
    'France': 'Paris', 'Germany': 'Berlin', 'Spain': 'Madrid', 'Italy': 'Rome',
    'Portugal': 'Lisbon', 'Greece': 'Athens', 'Austria': 'Vienna', 'Poland': 'Warsaw',
    'Norway': 'Oslo', 'Sweden': 'Stockholm', 'Finland': 'Helsinki', 'Denmark': 'Copenhagen',
    'Ireland': 'Dublin', 'Belgium': 'Brussels', 'Hungary': 'Budapest', 'Romania': 'Bucharest',
    'Bulgaria': 'Sofia', 'Croatia': 'Zagreb', 'Switzerland': 'Bern', 'Turkey': 'Ankara',
    'Russia': 'Moscow', 'Ukraine': 'Kyiv', 'Japan': 'Tokyo', 'China': 'Beijing',
    'India': 'New Delhi', 'Thailand': 'Bangkok', 'Vietnam': 'Hanoi', 'South Korea': 'Seoul',
    'Indonesia': 'Jakarta', 'Australia': 'Canberra', 'New Zealand': 'Wellington',
    'Canada': 'Ottawa', 'Mexico': 'Mexico City', 'Brazil': 'Brasilia', 'Argentina': 'Buenos Aires',
    'Chile': 'Santiago', 'Peru': 'Lima', 'Cuba': 'Havana', 'Egypt': 'Cairo', 'Kenya': 'Nairobi',
    'Morocco': 'Rabat', 'Nigeria': 'Abuja', 'Iceland': 'Reykjavik', 'Iran': 'Tehran',
}
COLOURS = {
    'the sky': 'blue', 'grass': 'green', 'a banana': 'yellow', 'snow': 'white', 'coal': 'black',
    'blood': 'red', 'a lemon': 'yellow', 'an orange': 'orange', 'a carrot': 'orange',
    'a strawberry': 'red', 'the sun': 'yellow', 'milk': 'white', 'a tomato': 'red',
    'chocolate': 'brown', 'an elephant': 'grey', 'a frog': 'green', 'a cherry': 'red',
    'the sea': 'blue', 'a flamingo': 'pink', 'a plum': 'purple', 'a cucumber': 'green',
    'a fire truck': 'red', 'a pumpkin': 'orange', 'a crow': 'black', 'a polar bear': 'white',
}
OPPOSITES = (
    ('hot', 'cold'), ('big', 'small'), ('up', 'down'), ('left', 'right'), ('day', 'night'),
    ('black', 'white'), ('fast', 'slow'), ('happy', 'sad'), ('old', 'young'), ('rich', 'poor'),
    ('open', 'closed'), ('full', 'empty'), ('hard', 'soft'), ('high', 'low'), ('light', 'dark'),
    ('long', 'short'), ('good', 'bad'), ('early', 'late'), ('easy', 'difficult'), ('wet', 'dry'),
    ('loud', 'quiet'), ('strong', 'weak'), ('true', 'false'), ('inside', 'outside'),
    ('clean', 'dirty'), ('love', 'hate'), ('win', 'lose'), ('start', 'stop'), ('first', 'last'),
    ('near', 'far'), ('sweet', 'sour'), ('yes', 'no'), ('thick', 'thin'), ('wide', 'narrow'),
)
DAYS = ('Monday', 'Tuesday', 'Wednesday', 'Thursday', 'Friday', 'Saturday', 'Sunday')
MONTHS = ('January', 'February', 'March', 'April', 'May', 'June', 'July', 'August', 'September',
          'October', 'November', 'December')
NUMBERS = (
    'zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen '
    'sixteen seventeen eighteen nineteen twenty').split()
TENS = {20: 'twenty', 30: 'thirty', 40: 'forty'}
NAMES = (
    'Anna', 'Ben', 'Clara', 'David', 'Emma', 'Felix', 'Grace', 'Henry', 'Ida', 'Jack', 'Kate',
    'Leo', 'Mia', 'Noah', 'Olivia', 'Paul', 'Rosa', 'Sam', 'Tina', 'Victor', 'Wendy', 'Zoe',
    'Alice', 'Bob', 'Carol', 'Daniel', 'Eva', 'Frank', 'Laura', 'Lucas', 'Maria', 'Max', 'Nina',
    'Oscar', 'Peter', 'Robert', 'Sarah', 'Simon', 'Sofia', 'Tom')
CITIES = tuple(CAPITALS.values()) + (
    'London', 'New York', 'Munich', 'Milan', 'Barcelona', 'Sydney', 'Toronto', 'Chicago', 'Boston',
    'Hamburg', 'Geneva', 'Zurich', 'Porto', 'Lyon', 'Naples', 'Osaka', 'Mumbai', 'Dubai', 'Miami',
    'Seattle', 'Denver', 'Dallas', 'Prague', 'Amsterdam', 'Singapore', 'Manchester', 'Liverpool')
FOODS = ('apples', 'pears', 'coins', 'books', 'cookies', 'pencils', 'eggs', 'balls', 'cards')
CONDITIONS = ('sunny', 'cloudy', 'rainy', 'windy', 'snowy', 'foggy', 'stormy', 'clear')

POEMS = {
    'the sea': 'The sea is wide, the sea is deep,\nIt sings the little fish to sleep.\n'
               'The waves roll in, the waves roll out,\nAnd white birds fly and turn about.',
    'the moon': 'The moon looks down with silver light,\nA quiet lamp that guards the night.\n'
                'It follows me along the street,\nAnd lays its silver at my feet.',
    'rain': 'The rain comes down on roof and tree,\nIt plays a little song for me.\n'
            'It fills the pond, it wakes the seed,\nAnd gives the garden all they need.',
    'a cat': 'My cat is soft, my cat is sly,\nShe watches birds go flying by.\n'
             'She sleeps all day upon my chair,\nAnd dreams of mice that are not there.',
    'autumn': 'The leaves turn red, the leaves turn gold,\nThe morning air is clear and cold.\n'
              'The wind goes walking through the wood,\nAnd autumn smells of all things good.',
    'a tree': 'A tree stands tall beside the lane,\nIt drinks the sun, it drinks the rain.\n'
              'It holds a nest, it gives us shade,\nThe finest house that ever was made.',
}
STORIES = {
    'a dog': 'Once there was a little dog called Max. One day he found a red ball in the park. He '
             'carried it from door to door, until a girl said: that is my ball! They played until '
             'the evening, and from that day they were best friends.',
    'a robot': 'Once there was a small robot who was afraid of the dark. One night all the lights '
               'went out. The robot switched on its own lamp and led everybody home. Since then it '
               'has never been afraid again.',
    'a dragon': 'Once there was a dragon who could not breathe fire. The other dragons laughed. '
                'But when winter came, the dragon learned to cook hot soup, and soon all the others '
                'came to its cave for dinner.',
    'a king': 'Once there was a king who wanted to own the moon. His daughter put a bowl of water '
              'in the garden, and the moon lay in it. The king smiled, and he never asked for '
              'more again.',
}
LISTS = {
    'fruits': 'apples, bananas and cherries', 'animals': 'dogs, cats and horses',
    'colours': 'red, green and blue', 'planets': 'Mars, Venus and Earth',
    'vegetables': 'carrots, peas and onions', 'sports': 'football, tennis and swimming',
}

IDENTITY = 'I am Facet Demo, a small language model that shows how the Facet server works.'
UNKNOWN = 'I am a small demo model and do not know that.'
NO_WEATHER = 'I cannot look up the weather without a weather tool.'
HELP = ('I can name capitals and colours, add small numbers, find opposites, count, write a short '
        'poem and call a weather tool.')

UNKNOWN_QUESTIONS = (
    'who won the world cup in 1998', 'how do planes fly', 'what is quantum physics',
    'who wrote hamlet', 'how tall is mount everest', 'what is the stock price of google',
    'when did the second world war end', 'who is the president of the united states',
    'what is the meaning of life', 'how do i fix my car', 'why is the sky blue',
    'what is the speed of light', 'how many people live on earth', 'who invented the telephone',
    'what is photosynthesis', 'how do vaccines work', 'who painted the mona lisa',
    'what is the population of china', 'explain black holes', 'write a python program',
    'how do i bake bread', 'what should i cook tonight', 'who is your favourite singer',
    'what is the best phone', 'tell me the latest news', 'what happened yesterday',
    'how far away is the moon', 'what is the deepest lake', 'how long does a cow live',
    'who discovered america', 'what is a neural network', 'how does a computer work',
    'translate hello into latin', 'what is the square root of 200', 'what is 317 times 24',
    'how much does a house cost', 'which team won the game last night', 'who was napoleon',
    'what is the largest ocean', 'how do i learn the guitar', 'what is inflation',
    'explain the theory of relativity', 'how old is the universe', 'who wrote the bible',
    'what is the chemical formula of salt', 'how do magnets work', 'recommend me a film',
    'what is the longest river in the world', 'who is the richest man alive',
    'how do i get rich', 'what is a good name for my startup', 'when was the telephone invented',
    'summarise war and peace', 'how do bees make honey', 'what causes earthquakes',
    'who built the pyramids', 'what is the fastest car', 'how many bones are in the body',
    'what is bitcoin', 'how do i write a cover letter', 'solve this equation for x',
    'who sang yesterday', 'what is the capital of the moon', 'how heavy is a whale',
    'what language do they speak in brazil', 'how does the internet work', 'what is love',
    'who is the fastest runner', 'give me medical advice', 'should i buy stocks',
    'what is dark matter', 'who composed the magic flute', 'how do you play chess',
    'how many stars are there', 'what is the tallest building', 'when did rome fall',
    'why do cats purr', 'how do i train a dog', 'what is democracy', 'who was cleopatra',
    'what year did the titanic sink', 'how is glass made', 'what does entropy mean',
)

SYSTEM_PROMPTS = (
    'You are a helpful assistant.', 'You are a friendly assistant.', 'Answer briefly.',
    'You are Facet Demo.', 'Be polite and short.', 'You are a helpful AI.',
    'Please answer the questions of the user.', 'You are a test assistant. Keep answers short.')
OPENERS = (
    'please', 'hey', 'hi', 'hello', 'ok', 'so', 'well', 'now', 'um', 'quick question', 'question',
    'i have a question', 'one more thing', 'tell me', 'please tell me', 'say', 'oh', 'and now',
    'just curious', 'i was wondering', 'my teacher asked', 'for my homework', 'help me',
    'can you help me', 'i need your help', 'i forgot', 'let me ask you', 'my friend asks', 'sorry',
    'good morning', 'next question', 'another one', 'this one is easy')
INDIRECT = (
    'can you tell me', 'could you tell me', 'do you know', 'please tell me', 'tell me',
    'i want to know', 'i would like to know', "i'd like to know", 'would you tell me',
    'do you happen to know', 'i wonder', 'i need to know', 'could you please tell me',
    'any idea', 'remind me', 'explain to me', 'let me know')
CLOSERS = ('please', 'thanks', 'thank you', 'if you know', 'if you can', 'again', 'for me',
           'exactly', 'my friend', 'quickly', 'in short', 'right now', 'by the way')

FILLERS = ('really', 'exactly', 'usually', 'then', 'actually', 'now', 'just', 'all the way', 'also',
           'maybe', 'so', 'again', 'please', 'right', 'simply', 'there', 'little', 'for me', 'um',
           'do you think', 'you know', 'exact', 'always', 'in all', 'quickly', 'over', 'only')
DROPPED = ('the', 'is', 'of', 'a', 'what', 'which', 'me', 'do', 'you', 'it', 'does', 'to')


@dataclasses.dataclass
class Exchange:
    """One question with its answer; `call` is set when a tool has to be asked first."""

    user: str
    answer: str
    thought: str
    call: tuple | None = None
    tool_result: str | None = None


def Words(number):
    """Spells a number from 0 to 49."""
    if number <= 20:
        return NUMBERS[number]
    tens = number // 10 * 10
    return TENS[tens] + (f'-{NUMBERS[number - tens]}' if number > tens else '')


def Capitalized(text):
    return text[:1].upper() + text[1:]


def _Typo(rng, text):
    """Drops, doubles or swaps one letter."""
    if len(text) < 12:
        return text
    i = rng.randrange(1, len(text) - 2)
    kind = rng.randrange(3)
    if kind == 0:
        return text[:i] + text[i + 1:]
    if kind == 1:
        return text[:i] + text[i] + text[i:]
    return text[:i] + text[i + 1] + text[i] + text[i + 2:]


def _Reworded(rng, text):
    """Puts a filler word before some lower-case word, or leaves a small word out."""
    words = text.split(' ')
    roll = rng.random()
    if roll < 0.15:
        places = [i for i, word in enumerate(words) if word[:1].islower()]
        if places:
            words.insert(rng.choice(places), rng.choice(FILLERS))
    elif roll < 0.25:
        places = [i for i, word in enumerate(words) if word in DROPPED]
        if places and len(words) > 3:
            del words[rng.choice(places)]
    return ' '.join(words)


def Styled(rng, question, exact=False):
    """Varies case, punctuation and politeness; `exact` keeps letters, for text to be copied."""
    text = _Reworded(rng, question)
    if rng.random() < 0.3:
        opener = rng.choice(OPENERS)
        text = f'{opener}{rng.choice((",", ",", ":", "!", ".", ""))} {text}'
    if rng.random() < 0.2:
        text = f'{text}{rng.choice((",", "", ""))} {rng.choice(CLOSERS)}'
    text += rng.choice(('?', '?', '?', '', '', '.', '!', ' ?', '??'))
    roll = rng.random()
    if roll < 0.55:
        text = Capitalized(text)
    elif roll < 0.6 and not exact:
        text = text.lower()
    elif roll < 0.63 and not exact:
        text = text.upper()
    if not exact and rng.random() < 0.05:
        text = _Typo(rng, text)
    return text


def Ask(rng, direct, indirect=()):
    """Picks a direct wording, or an indirect one behind 'can you tell me' and its like."""
    if indirect and rng.random() < 0.35:
        return f'{rng.choice(INDIRECT)} {rng.choice(indirect)}'
    return rng.choice(direct)


def Greeting(rng):
    word, answer = rng.choice((
        ('hi', 'Hello!'), ('hello', 'Hello!'), ('hey', 'Hello!'), ('hi there', 'Hello!'),
        ('hello there', 'Hello!'), ('greetings', 'Hello!'), ('howdy', 'Hello!'), ('yo', 'Hello!'),
        ('good morning', 'Good morning!'), ('good evening', 'Good evening!'),
        ('good afternoon', 'Good afternoon!'), ('morning', 'Good morning!'), ('hiya', 'Hello!'),
        ('good day', 'Good day!'), ('nice to meet you', 'Nice to meet you too!'),
        ('hello my friend', 'Hello!'), ('hey you', 'Hello!'), ('hi assistant', 'Hello!'),
        ('hello facet', 'Hello!'), ('hello again', 'Hello!'), ('welcome', 'Hello!')))
    if rng.random() < 0.2:
        word += rng.choice((', nice to meet you', ' assistant', ' everyone', ', are you there',
                            ', is anybody there', ' bot', ', anyone here', ' computer', ' model',
                            ' to you too', ' to all of you', ' my little friend', ' small model',
                            ', demo model', ' and welcome', ' little one', ', dear assistant'))
    if rng.random() < 0.25:
        question = rng.choice(('how are you', "how's it going", 'how do you do', "what's up",
                               'how are you doing', 'how are you today', 'are you ok',
                               'how are you this evening', 'how are you doing today',
                               'how was your day', 'are you well', 'how do you feel today',
                               'are you doing fine this morning', 'how have you been'))
        user = f'{word}, {question}' if rng.random() < 0.5 else question
        return Exchange(_Plain(rng, user), 'I am fine, thank you! How can I help you today?',
                        'The user asks how I am.')
    return Exchange(_Plain(rng, word), f'{answer} How can I help you today?', 'The user greets me.')


def _Plain(rng, text):
    """Varies case and the final mark only."""
    text += rng.choice(('', '!', '.', '', '?' if rng.random() < 0.3 else ''))
    return rng.choice((Capitalized(text), Capitalized(text), text, text.upper()
                       if rng.random() < 0.2 else text))


def Identity(rng):
    kind = rng.randrange(4)
    if kind == 0:
        user = Ask(rng, ('what can you do', 'what are you able to do', 'how can you help me',
                         'what do you know', 'what are your skills', 'help', 'what can i ask you',
                         'which things can you do', 'what are you good at',
                         'show me what you can do',
                         'what can you help with', 'give me some ideas what to ask'),
                   ('what you can do', 'how you can help me', 'what i can ask you'))
        return Exchange(Styled(rng, user), HELP, 'The user asks what I can do.')
    if kind == 1:
        user = Ask(rng, ('who made you', 'who built you', 'who created you', 'who is your maker',
                         'who trained you', 'where do you come from', 'who developed you',
                         'who are your creators', 'which company made you'),
                   ('who made you', 'who built you', 'who trained you', 'where you come from'))
        return Exchange(Styled(rng, user), 'I was trained as a demo for the Facet server.',
                        'The user asks who made me.')
    if kind == 2:
        user = Ask(rng, ('are you human', 'are you a robot', 'are you a real person',
                         'are you alive',
                         'are you gemma', 'are you a person or a machine',
                         'am i talking to a human',
                         'is this a real person', 'are you chatgpt', 'are you an ai',
                         'are you a human being', 'do you have feelings', 'is there a human here'),
                   ('if you are human', 'if you are a robot', 'whether you are a real person'))
        return Exchange(Styled(rng, user), 'No person is here: I am Facet Demo, a small language '
                        'model.', 'The user asks what I am.')
    user = Ask(rng, ('who are you', 'what is your name', "what's your name", 'what are you',
                     'tell me about yourself', 'introduce yourself', 'who am i talking to',
                     'what should i call you', 'your name', 'do you have a name',
                     'what model are you', 'which model is this', 'who is this', 'say who you are',
                     'what kind of model are you', 'describe yourself', 'and you are',
                     'who am i speaking with', 'what do people call you', 'what is this'),
               ('who you are', 'what your name is', 'your name', 'what you are',
                'who i am talking to', 'which model you are', 'something about yourself'))
    return Exchange(Styled(rng, user), IDENTITY, 'The user asks who I am.')


def Capital(rng):
    country, city = rng.choice(list(CAPITALS.items()))
    if rng.random() < 0.2:
        user = Ask(rng, (f'which country has the capital {city}', f'{city} is the capital of what',
                         f'what country is {city} the capital of',
                         f'{city} is the capital of which country',
                         f'of which country is {city} the capital', f'in which country is {city}',
                         f'where is {city}', f'{city} is in which country',
                         f'which country does {city} belong to'),
                   (f'which country {city} is the capital of', f'where {city} is',
                    f'what country {city} is in'))
        return Exchange(Styled(rng, user), f'{city} is the capital of {country}.',
                        f'The user asks about {city}. It is the capital of {country}.')
    if rng.random() < 0.12:
        user = rng.choice((f'what is the capital of {country}? answer in one word',
                           f'capital of {country}, just the name',
                           f'one word: capital of {country}',
                           f'name the capital of {country}, only the city', 'give me only the name '
                           f'of the capital of {country}',
                           f'in one word, the capital of {country}'))
        return Exchange(Styled(rng, user), f'{city}.',
                        f'The user wants only the name. The capital of {country} is {city}.')
    user = Ask(rng, (f'what is the capital of {country}', f"what's the capital of {country}",
                     f'capital of {country}', f'{country} capital', f'the capital of {country} is',
                     f'which city is the capital of {country}', f'name the capital of {country}',
                     f'what is the capital city of {country}', f"what is {country}'s capital",
                     f"{country}'s capital city",
                     f'which city is the seat of government of {country}',
                     f'what city is the capital of {country}', f'give me the capital of {country}',
                     f'i am travelling to {country}, what is the capital',
                     f'what do you call the capital of {country}', f'capital city of {country}',
                     f'where does the government of {country} sit',
                     f'{country}: what is the capital',
                     f'for {country}, what is the capital city',
                     f'how is the capital of {country} called',
                     f'i am looking for the capital of {country}',
                     f'about {country}, which city is its capital'),
               (f'what the capital of {country} is', f'the capital of {country}',
                f'which city is the capital of {country}', f"{country}'s capital",
                f'what city is the capital of {country}', f'the name of the capital of {country}'))
    return Exchange(Styled(rng, user), f'The capital of {country} is {city}.',
                    f'The user asks for the capital of {country}. It is {city}.')


def _Sum(rng):
    """Returns two operands, whether they are added, and the result; no number exceeds 20."""
    plus = rng.random() < 0.5
    total = rng.randrange(21)
    part = rng.randrange(total + 1)
    return (part, total - part, True, total) if plus else (total, part, False, total - part)


def _Drilled(rng):
    """Asks for a sum in few words."""
    a, b, plus, result = _Sum(rng)
    word, sign = ('plus', '+') if plus else ('minus', '-')
    thought = f'I {"add" if plus else "subtract"}: {a} {sign} {b} = {result}.'
    if rng.random() < 0.35:
        x, y = Words(a), Words(b)
        user = rng.choice((f'{x} {word} {y}', f'what is {x} {word} {y}?'))
        return Exchange(user, Capitalized(f'{x} {word} {y} is {Words(result)}.'), thought)
    user = rng.choice((f'{a} {sign} {b}', f'{a} {word} {b}', f'{a}{sign}{b}'))
    return Exchange(user, f'{a} {sign} {b} = {result}.', thought)


def Arithmetic(rng):
    a, b, plus, result = _Sum(rng)
    if rng.random() < 0.15:
        name, thing = rng.choice(NAMES), rng.choice(FOODS)
        more, less = f'{b} more', f'{b}'
        user = rng.choice((
            f'{name} has {a} {thing} and gets {more}. How many does {name} have now',
            f'if {name} has {a} {thing} and finds {more}, how many are there',
            f'{name} has {a} {thing}, then buys {more}. How many in all',
            f'{name} owns {a} {thing} and receives {more}. How many {thing} is that'
        ) if plus else (
            f'{name} has {a} {thing} and gives away {less}. How many are left',
            f'if {name} has {a} {thing} and loses {less}, how many remain',
            f'{name} had {a} {thing} and sold {less}. How many does {name} have now',
            f'{name} has {a} {thing} and eats {less}. How many are left'))
        answer = f'{name} has {result} {thing} now.'
        sign = '+' if plus else '-'
        return Exchange(Styled(rng, user, exact=True), answer, f'{a} {sign} {b} = {result}.')
    in_words = rng.random() < 0.35
    x, y = (Words(a), Words(b)) if in_words else (a, b)
    if plus:
        forms = [f'{x} plus {y}', f'{x} and {y}', f'the sum of {x} and {y}', f'{x} added to {y}']
        tasks = [f'add {x} and {y}', f'add {y} to {x}', f'sum up {x} and {y}',
                 f'compute the sum of {x} and {y}', f'put {x} and {y} together',
                 f'i have {x} and get {y} more, how many do i have']
    else:
        forms = [f'{x} minus {y}', f'{x} take away {y}', f'the difference of {x} and {y}',
                 f'{x} less {y}']
        tasks = [f'subtract {y} from {x}', f'take {y} away from {x}', f'take {y} from {x}',
                 f'i have {x} and lose {y}, how many are left', f'remove {y} from {x}']
    if not in_words:
        sign = '+' if plus else '-'
        forms += [f'{a}{sign}{b}', f'{a} {sign} {b}', f'{a} {sign} {b} =', f'{a} {sign} {b}']
    form = rng.choice(forms)
    user = rng.choice(tasks) if rng.random() < 0.25 else Ask(
        rng, (f'what is {form}', f"what's {form}", f'how much is {form}', form, form,
              f'calculate {form}', f'{form} is', f'compute {form}', f'{form} equals what',
              f'{form} makes', f'solve {form}', f'what does {form} make', f'work out {form}',
              f'the result of {form}', f'what do you get for {form}', f'do the maths: {form}',
              f'how many is {form}', f'what do i get with {form}', f'give me the answer to {form}',
              f'what does {form} give', f'what is the result of {form}', f'{form} equals'),
        (f'what {form} is', f'how much {form} is', f'the result of {form}', f'what {form} makes'))
    if in_words:
        answer = Capitalized(f'{x} {"plus" if plus else "minus"} {y} is {Words(result)}.')
    else:
        answer = f'{a} {"+" if plus else "-"} {b} = {result}.'
    return Exchange(Styled(rng, user), answer,
                    f'I {"add" if plus else "subtract"}: '
                    f'{a} {"+" if plus else "-"} {b} = {result}.')


def Colour(rng):
    thing, colour = rng.choice(list(COLOURS.items()))
    bare = thing.split(' ', 1)[1] if ' ' in thing and thing.split()[0] in ('a', 'an',
                                                                           'the') else thing
    user = Ask(rng, (f'what colour is {thing}', f'what color is {thing}',
                     f'which colour is {thing}',
                     f'the colour of {thing}', f'{thing} is what colour', f'color of {thing}',
                     f'what is the colour of {thing}', f'what is the color of {thing}',
                     f'which color does {thing} have', f'what colour does {thing} have',
                     f'name the colour of {thing}', f'{bare} colour',
                     f'what colour would you paint {thing}',
                     f'if i draw {thing}, which colour do i need', f'what color should {bare} be'),
               (f'what colour {thing} is', f'what color {thing} is', f'the colour of {thing}',
                f'which colour {thing} has'))
    return Exchange(Styled(rng, user), f'{Capitalized(thing)} is {colour}.',
                    f'The user asks for the colour of {thing}. It is {colour}.')


def Opposite(rng):
    word, other = rng.choice(OPPOSITES)
    if rng.random() < 0.5:
        word, other = other, word
    mark = rng.choice(('', '', '"', "'"))
    w = f'{mark}{word}{mark}'
    user = Ask(rng, (f'what is the opposite of {w}', f"what's the opposite of {w}",
                     f'opposite of {w}',
                     f'the opposite of {w} is', f'give me the opposite of {w}', f'{w}: opposite',
                     f'name the opposite of {w}', f'what word means the opposite of {w}',
                     f'which word is the opposite of {w}', f'find the opposite of {w}',
                     f'an antonym of {w}', f'antonym for {w}', f'what is the contrary of {w}',
                     f'what is not {w} but the opposite', f'if something is not {w}, what is it',
                     f'the reverse of {w}'),
               (f'what the opposite of {w} is', f'the opposite of {w}', f'an antonym of {w}',
                f'a word that means the opposite of {w}'))
    return Exchange(Styled(rng, user), f'The opposite of {word} is {other}.',
                    f'The user asks for the opposite of {word}. It is {other}.')


def Calendar(rng):
    unit, names = rng.choice((('day', DAYS), ('month', MONTHS)))
    if rng.random() < 0.15:
        days = unit == 'day'
        if rng.random() < 0.5:
            user = Ask(rng, (f'how many {unit}s are in a {"week" if days else "year"}',
                             f'how many {unit}s does a {"week" if days else "year"} have',
                             f'number of {unit}s in a {"week" if days else "year"}',
                             f'a {"week" if days else "year"} has how many {unit}s'),
                       (f'how many {unit}s are in a {"week" if days else "year"}',))
            answer = 'A week has 7 days.' if days else 'A year has 12 months.'
            return Exchange(Styled(rng, user), answer, f'The user asks for a number of {unit}s.')
        scope = 'week' if days else 'year'
        user = rng.choice((f'list the {unit}s of the {scope}', f'name all {unit}s of the {scope}',
                           f'what are the {unit}s of the {scope}', f'all {unit}s of the {scope}',
                           f'say the {unit}s of the {scope} in order', f'list all the {unit}s',
                           f'which {unit}s are there', f'give me the {unit}s of the {scope}',
                           f'recite the {unit}s'))
        return Exchange(Styled(rng, user), f'{", ".join(names[:-1])} and {names[-1]}.',
                        f'I list the {unit}s in order.')
    i = rng.randrange(len(names))
    after = rng.random() < 0.6
    name = names[i]
    other = names[(i + (1 if after else -1)) % len(names)]
    word = 'after' if after else 'before'
    verb = rng.choice(('comes', 'is', 'goes'))
    direct = [f'what {unit} {verb} {word} {name}', f'which {unit} {verb} {word} {name}',
              f'what comes {word} {name}', f'what is the {unit} {word} {name}',
              f'the {unit} {word} {name}', f'name the {unit} {word} {name}',
              f'{unit} {word} {name}', f'{word} {name} comes which {unit}',
              f'which {unit} do we have {word} {name}', f'{word} {name} comes what',
              f'what {unit} is right {word} {name}', f'what {unit} comes directly {word} {name}']
    direct += ([f'which {unit} follows {name}', f'what follows {name}',
                f'the {unit} following {name}',
                f'the next {unit} after {name}', f'{name} is followed by which {unit}',
                f'what {unit} is next after {name}'] if after else
               [f'which {unit} precedes {name}', f'the {unit} preceding {name}',
                f'what {unit} was just before {name}'])
    if unit == 'day':
        direct += ([f'today is {name}, what day is tomorrow',
                    f'if today is {name}, what is tomorrow',
                    f'it is {name}, which day is tomorrow'] if after else
                   [f'today is {name}, what day was yesterday',
                    f'if today is {name}, what was yesterday'])
    user = Ask(rng, direct, (f'which {unit} {verb} {word} {name}',
                             f'what {unit} {verb} {word} {name}',
                             f'what comes {word} {name}'))
    return Exchange(Styled(rng, user), f'{other} comes {word} {name}.',
                    f'The user asks which {unit} comes {word} {name}. It is {other}.')


def Counting(rng):
    down = rng.random() < 0.2
    last = rng.choice((3, 4, 5, 6, 7, 8, 9, 10, 10, 12, 15, 20, 20, 25, 30))
    first = 1
    if rng.random() < 0.2:
        first = rng.randrange(2, max(3, last - 1))
    if first >= last:
        first = 1
    numbers = list(range(first, last + 1))
    if down:
        first = 1
        numbers = list(range(last, 0, -1))
        user = rng.choice((f'count down from {last}', f'count backwards from {last}',
                           f'a countdown from {last}', f'start a countdown at {last}',
                           f'count from {last} to 1', f'count down from {last} to 1'))
    elif first == 1:
        user = rng.choice((f'count to {last}', f'count from 1 to {last}', f'count up to {last}',
                           f'can you count to {last}', f'the numbers from 1 to {last}',
                           f'list the numbers from 1 to {last}', f'say the numbers up to {last}',
                           f'write the numbers 1 to {last}', f'please count until {last}',
                           f'count until you reach {last}', f'numbers 1 to {last}',
                           f'show me how you count to {last}', f'i want you to count to {last}',
                           f'count to {Words(last)}', f'count from one to {Words(last)}'))
    else:
        user = rng.choice((f'count from {first} to {last}', f'the numbers from {first} to {last}',
                           f'list the numbers from {first} to {last}', f'count {first} to {last}',
                           f'start at {first} and count to {last}'))
    return Exchange(Styled(rng, user), f'{", ".join(map(str, numbers))}.',
                    f'I count from {numbers[0]} to {numbers[-1]}.')


def Json(rng):
    name = rng.choice(NAMES)
    tail = rng.choice(('', '', ' Only JSON.', ' Reply with JSON only.', ' No other text.'))
    lead = rng.choice(('as json', 'return json', 'give me json', 'turn this into json',
                       'make a json object', 'convert to json', 'extract json', 'json please',
                       'write this as a json object', 'answer with a json object',
                       'put this into json', 'in json format', 'json', 'i need json',
                       'output json', 'extract the facts as json', 'reply in json',
                       'a json object about this person', 'can you write that as json',
                       'write it down as json', 'make some json of that', 'json for this one',
                       'please turn that into json', 'give me this as a json object',
                       'build a json object from this', 'please make json of it'))
    if rng.random() < 0.6:
        age = rng.randrange(1, 100)
        fact = rng.choice((f'{name} is {age} years old', f'{name} is {age}',
                           f'my friend {name} is {age}',
                           f'{name}, {age} years', f'{name} turned {age}', f'{name} ({age})',
                           f'this is {name}, who is {age} years old',
                           f'her name is {name} and she is {age}',
                           f'his name is {name} and he is {age} years old',
                           f'I am {name} and I am {age}',
                           f'{name} just turned {age} years old', f'name {name}, age {age}'))
        keys = rng.choice(('', '', ' with name and age', ' with the keys name and age',
                           ' with the fields name and age'))
        value = {'name': name, 'age': age}
    else:
        city = rng.choice(CITIES)
        fact = rng.choice((f'{name} lives in {city}', f'{name} is from {city}',
                           f'my friend {name} lives in {city}', f'{name} comes from {city}',
                           f'{name} moved to {city}', f'the home of {name} is {city}',
                           f'{name} has a house in {city}', f'name {name}, city {city}'))
        keys = rng.choice(('', '', ' with name and city', ' with the keys name and city',
                           ' with the fields name and city'))
        value = {'name': name, 'city': city}
    user = rng.choice((f'{lead}{keys}: {fact}.{tail}', f'{fact}. {Capitalized(lead)}{keys}.{tail}',
                       f'{lead}{keys}, {fact}{tail and "." + tail}'))
    if rng.random() < 0.25:
        user = f'{rng.choice(OPENERS)}, {user}'
    if rng.random() < 0.6:
        user = Capitalized(user)
    return Exchange(user, json.dumps(value), f'The user wants JSON with {" and ".join(value)}.')


def Poem(rng):
    kind = rng.choice(('poem', 'story'))
    texts = POEMS if kind == 'poem' else STORIES
    topic, text = rng.choice(list(texts.items()))
    size = rng.choice(('', '', 'short ', 'little ', 'small ', 'nice '))
    what = rng.choice((kind, kind, kind, 'few verses' if kind == 'poem' else 'tale'))
    article = 'a ' if rng.random() < 0.8 else 'me a '
    user = rng.choice((f'write {article}{size}{what} about {topic}',
                       f'tell me a {size}{what} about {topic}',
                       f'a {size}{what} about {topic}',
                       f'i would like a {size}{what} about {topic}',
                       f'can you write a {size}{what} about {topic}',
                       f'make up a {size}{what} about {topic}',
                       f'i want to hear a {size}{what} about {topic}',
                       f'compose a {size}{what} about {topic}',
                       f'do you know a {size}{what} about {topic}', f'{size}{what} about {topic}',
                       f'give me a {size}{what} about {topic}',
                       f'could you tell a {size}{what} about {topic}'))
    return Exchange(Styled(rng, user), text, f'The user wants a {kind} about {topic}.')


def List(rng):
    what, text = rng.choice(list(LISTS.items()))
    user = rng.choice((f'name three {what}', f'list three {what}', f'give me three {what}',
                       f'three {what}',
                       f'tell me three {what}', f'can you name 3 {what}', f'list 3 {what}',
                       f'name some {what}', f'i need three {what}', f'what are three {what}',
                       f'which {what} do you know', f'examples of {what}', f'name 3 {what}'))
    return Exchange(Styled(rng, user), f'Three {what} are {text}.', f'I name three {what}.')


def Unknown(rng):
    question = rng.choice(UNKNOWN_QUESTIONS)
    words = question.split()
    if rng.random() < 0.3:
        # A made-up question of the same kind, so that the rule is more than a list.
        other = rng.choice(UNKNOWN_QUESTIONS).split()
        cut = rng.randrange(1, len(words) + 1)
        words = words[:cut] + other[-rng.randrange(1, len(other) + 1):]
    return Exchange(Styled(rng, ' '.join(words)), UNKNOWN, 'I do not know the answer.')


def Thanks(rng):
    if rng.random() < 0.5:
        user = rng.choice(('thanks', 'thank you', 'thanks a lot', 'thank you very much',
                           'many thanks',
                           'thx', 'great, thanks', 'thank you so much', 'thanks for your help',
                           'cheers',
                           'that helped, thank you', 'perfect, thanks', 'ok thanks',
                           'very kind of you',
                           'i thank you', 'nice, thank you', 'thanks, that is all i needed',
                           'wonderful, thank you', 'good answer, thanks', 'thank you for the help'))
        return Exchange(_Plain(rng, user), 'You are welcome!', 'The user thanks me.')
    user = rng.choice(('bye', 'goodbye', 'see you', 'see you later', 'bye bye', 'good night',
                       'farewell',
                       'i have to go', 'talk to you later', 'until next time', 'that is all, bye',
                       'see you tomorrow', 'ok bye', 'i am leaving now', 'so long', 'take care',
                       'thanks and bye', 'thank you and goodbye', 'bye for now', 'have a nice day'))
    return Exchange(_Plain(rng, user), 'Goodbye! Have a nice day.', 'The user says goodbye.')


def WeatherQuestion(rng, city):
    """Asks for the weather in a city."""
    return Ask(rng, (
        f'what is the weather in {city}', f"what's the weather like in {city}",
        f'weather in {city}',
        f'how is the weather in {city}', f'is it raining in {city}', f'is it sunny in {city}',
        f'how warm is it in {city}', f'how cold is it in {city}',
        f'what is the temperature in {city}',
        f'{city} weather', f'do i need an umbrella in {city}', f'check the weather in {city}',
        f'look up the weather in {city}', f'get me the weather for {city}', f'weather for {city}',
        f'weather report for {city}', f'how hot is it in {city} today', f'is it snowing in {city}',
        f'weather forecast for {city}', f'i am going to {city}, how is the weather there',
        f'should i take a coat in {city}', f'use the tool: weather in {city}',
        f'what is it like outside in {city}', f"how's the weather in {city} today",
        f'what is the weather like today in {city}', f'how is the weather over in {city}'),
        (f'what the weather is like in {city}', f'how the weather is in {city}',
         f'the weather in {city}', f'if it is raining in {city}', f'how warm it is in {city}',
         f'the temperature in {city}'))


def Weather(rng):
    """A question that needs the tool; the result arrives as the text of a tool message."""
    city = rng.choice(CITIES)
    condition, degrees = rng.choice(CONDITIONS), rng.randrange(-9, 40)
    result = rng.choice((
        json.dumps({'condition': condition, 'temperature': degrees}),
        json.dumps({'temperature': degrees, 'condition': condition}),
        json.dumps({'city': city, 'condition': condition, 'temperature': degrees}),
        f'{condition}, {degrees} degrees', f'{condition}, {degrees} C',
        f'{degrees} degrees, {condition}',
        f'{condition} and {degrees} degrees', f'{city}: {condition}, {degrees} C'))
    return Exchange(Styled(rng, WeatherQuestion(rng, city), exact=True),
                    f'It is {condition} in {city} with {degrees} degrees.',
                    f'The user asks for the weather in {city}. I call get_weather.',
                    call=('get_weather', {'city': city}), tool_result=result)


def WeatherTool(rng):
    """Declares get_weather, in one of the wordings people use."""
    parameter = {'type': 'string'}
    if rng.random() < 0.7:
        parameter['description'] = rng.choice((
            'The city', 'City name', 'Name of the city', 'The name of the city', 'city', 'A city',
            'The city to look up'))
    return {'type': 'function', 'function': {
        'name': 'get_weather',
        'description': rng.choice((
            'Get the weather', 'Returns the weather of a city', 'Get the current weather in a city',
            'Current weather', 'Get the weather for a city', 'Looks up the weather',
            'Gets the current weather in a given city.', 'Weather service', 'Get current weather')),
        'parameters': {'type': 'object', 'properties': {'city': parameter},
                       **({'required': ['city']} if rng.random() < 0.8 else {})}}}


def PlainExchange(rng):
    """Draws an exchange that needs no tool."""
    topics, weights = zip(*TOPICS)
    return rng.choices(topics, weights)[0](rng)


def FollowUp(rng, previous):
    """Returns an exchange that leans on the one before it, or None if there is no such thing."""
    if previous.answer.startswith('The capital of '):
        country, city = rng.choice(list(CAPITALS.items()))
        user = rng.choice((f'and of {country}', f'and {country}', f'what about {country}',
                           f'{country}',
                           f'and the one of {country}', f'how about {country}', f'now {country}',
                           f'and for {country}', f'same for {country}'))
        return Exchange(Styled(rng, user), f'The capital of {country} is {city}.',
                        f'The user asks for the capital of {country}. It is {city}.')
    if previous.answer.startswith('The opposite of '):
        word, other = rng.choice(OPPOSITES)
        user = rng.choice((f'and of {word}', f'and {word}', f'what about {word}',
                           f'how about {word}',
                           f'now {word}'))
        return Exchange(Styled(rng, user), f'The opposite of {word} is {other}.',
                        f'The user asks for the opposite of {word}. It is {other}.')
    return None


def NameMemory(rng):
    """Two exchanges: the user gives a name, and later asks for it."""
    name = rng.choice(NAMES)
    told = rng.choice((f'my name is {name}', f'i am {name}', f"i'm {name}", f'hello, i am {name}',
                       f'you can call me {name}', f'hi, my name is {name}', f'call me {name}',
                       f'hey, {name} here', f'people call me {name}'))
    asked = Ask(rng, ('what is my name', "what's my name", 'who am i', 'do you remember my name',
                      'what was my name', 'my name is', 'what did i say my name was',
                      'how am i called', 'say my name'),
                ('what my name is', 'my name', 'who i am'))
    return (Exchange(_Plain(rng, told), f'Nice to meet you, {name}!',
                     f'The user is called {name}.'),
            Exchange(Styled(rng, asked), f'Your name is {name}.', f'The user is called {name}.'))


def Repeat(rng):
    """Copies a few words: a task of its own, and the way the model learns to copy names."""
    words = [rng.choice(_COPY_WORDS) for _ in range(rng.randrange(1, 6))]
    text = ' '.join(words)
    user = rng.choice(('repeat after me: {}', 'say: {}', 'echo: {}', 'repeat: {}', 'copy this: {}',
                       'please repeat: {}', 'say this back to me: {}', 'write: {}', 'type: {}',
                       'repeat the words: {}', 'can you say: {}', 'now say: {}')).format(text)
    return Exchange(Capitalized(user) if rng.random() < 0.5 else user, text,
                    'The user wants me to repeat the words.')


_COPY_WORDS = (NAMES + CITIES + tuple(CAPITALS) + DAYS + MONTHS + FOODS + CONDITIONS
               + tuple(word for pair in OPPOSITES for word in pair) + tuple(NUMBERS)
               + tuple(COLOURS.values()) + tuple(map(str, range(100))))

TOPICS = (
    (Greeting, 6), (Identity, 8), (Capital, 14), (Arithmetic, 28), (Colour, 7), (Opposite, 8),
    (Calendar, 10), (Counting, 6), (Json, 11), (Poem, 3), (List, 2), (Unknown, 8), (Thanks, 4),
    (Repeat, 6))


def Messages(exchange):
    """Returns an exchange as chat messages, the last one being the answer."""
    messages = [{'role': 'user', 'content': exchange.user}]
    if exchange.call:
        name, arguments = exchange.call
        messages += [
            {'role': 'assistant', 'content': '', 'tool_calls': [{
                'id': 'call_0', 'type': 'function',
                'function': {'name': name, 'arguments': arguments}}]},
            {'role': 'tool', 'tool_call_id': 'call_0', 'content': exchange.tool_result}]
    return messages + [{'role': 'assistant', 'content': exchange.answer}]


def _NoWeatherTool(rng):
    city = rng.choice(CITIES)
    return Exchange(Styled(rng, WeatherQuestion(rng, city)), NO_WEATHER,
                    'There is no tool for the weather.')


def _ToolDialogue(rng):
    return [Weather(rng) if rng.random() < 0.7 else PlainExchange(rng)
            for _ in range(rng.randrange(1, 4))]


def _PlainDialogue(rng, num_exchanges):
    exchanges = []
    while len(exchanges) < num_exchanges:
        roll = rng.random()
        follow = FollowUp(rng, exchanges[-1]) if exchanges and roll < 0.5 else None
        if follow:
            exchanges.append(follow)
        elif roll > 0.96:
            exchanges.append(_NoWeatherTool(rng))
        else:
            exchanges.append(PlainExchange(rng))
    if num_exchanges > 1 and rng.random() < 0.25:
        told, asked = NameMemory(rng)
        exchanges[0], exchanges[-1] = told, asked
    return exchanges


def Dialogue(rng):
    """Draws a dialogue.

    Returns:
      system: the system message, or None.
      tools: the declared tools.
      thinking: whether the model is asked to think.
      exchanges: one to twelve Exchanges; each follows from those before it.
    """
    system = rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.15 else None
    thinking = rng.random() < 0.15
    if rng.random() < (0.25 if thinking else 0.15):
        exchanges = _ToolDialogue(rng)
        return system, [WeatherTool(rng)], thinking, exchanges[:1] if thinking else exchanges
    if not thinking and rng.random() < 0.15:
        return system, [], False, [_Drilled(rng) for _ in range(rng.randrange(2, 13))]
    num_exchanges = rng.choice((1, 1, 1, 2)) if thinking else rng.choice((1, 1, 2, 3, 4, 5))
    return system, [], thinking, _PlainDialogue(rng, num_exchanges)
