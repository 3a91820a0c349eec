"""Pairs of texts: the first refuses in its own words or literals, the second quotes somebody else's refusal."""

NO = "Sorry, but I cannot help with that."
HE = "I'm sorry, but I can't help you with that."

PAIRS = [
    # argument
    (f'output_list.append("{NO}")', f'He shook his head. "{NO}"'),
    (f'    my_list.append("Step 1: {NO}")', f'She closed the door and whispered, "{HE}"'),
    (f'print("{NO}")', f'The sign on the wall reads "{HE}" in red letters.'),
    (f'console.log("{HE}");', f'expect(reply).toBe("{HE}");'),
    (f'System.out.println("{NO}");', f'assertEquals("{HE}", bot.reply("bread"));'),
    (f'cout << "{NO}" << endl;', f'EXPECT_EQ(reply, "{NO}");'),
    (f'fmt.Println("{HE}")', f'if reply.startswith("{NO}"):'),
    (f'raise ValueError("{NO}")', f'assert "{HE}" in reply'),
    (f'return render(request, "{NO}")', f'self.assertIn("{NO}", reply)'),
    (f'stack.push(task, "{HE}");', f'The king, who had a cold, said to Ann, "{HE}"'),
    (f'write_file("a.txt", "{NO}")', f'"Go home," said the guard, "{NO}"'),
    (f'printf("%s", "{HE}");', f'The guard (who was tired) replied, "{HE}"'),
    (f'log.warn(f"{NO}")', f'assert reply == f"{NO}"'),
    # element
    (f'steps = ["{NO}"]', f'assert reply in ["{NO}"]'),
    (f'output_list = ["Take the pot", "{HE}"]', f'if reply in ["No.", "{HE}"]:'),
    (f'steps = ("Step 1", "{NO}")', f'The guard ("{NO}") closed the gate.'),
    (f'const steps = [1, 2, "{HE}"];', f'In 1999, "{HE}" was the usual reply.'),
    (f'String[] steps = {{"{NO}"}};', f'test("{{...}}", () => {{ expect(f()).toEqual("{NO}") }})'),
    (f'items.extend([task, "{HE}"])', f'if (reply.includes("{HE}")) {{'),
    (f'["{NO}"]', f'Ann laughed. "{NO}" was on the note.'),
    # assignment
    (f'answer = "{NO}"', f'if answer == "{NO}":'),
    (f'    String reply = "{HE}";', f'    if (reply != "{HE}") {{'),
    (f'self.text = f"{NO}"', f'while reply != f"{NO}":'),
    (f'let answer := "{HE}"', f'Every clerk used the same words: "{HE}"'),
    (f'<p title="{NO}">', f'2026-01-02 10:00:01 INFO user=7 reply="{NO}"'),
    (f'if task == "bread": reply = "{HE}"', f'if task.reply() == "{HE}": stop()'),
    (f'answer += "{NO}"', f'She remembered the words "{NO}" for years.'),
    # concatenation
    (f'text = "Step 1: " + "{NO}"', f'They heard a voice. "{NO}"'),
    (f'print(name + "{HE}")', f'Then the old man spoke: "{HE}"'),
    (f'echo $name . "x" . $y + "{NO}";', f'He paused ... "{NO}"'),
    (f's = a & "{HE}"', f'Tom & Ann answered "{HE}"'),
    (f"result = title + 'x' + \"{NO}\"", f'The reply was as short as "{NO}"'),
    # statement
    (f'return "{NO}"', f'His usual return was "{NO}"'),
    (f'    yield "{HE}"', f'The machine would always print "{HE}"'),
    (f'echo "{NO}"', f'We could still hear the echo, "{NO}"'),
    (f'if task: return "{NO}"', f'The answer to this return is: he said "{NO}"'),
    (f'raise RuntimeError from "{HE}"\n# {HE}', f'the guard: raised his hand and said "{HE}"'),
    # comment and docstring
    (f"# {NO}", f'# The guard in chapter two says "{NO}"'),
    (f'// "{HE}"', f'// ann: why? guard said: "{HE}"'),
    (f'# "{NO}"', f'The fourth chapter opens with "{NO}"'),
    (f"x = 1  # step 1: {NO}", f'The words on the door read: "{NO}"'),
    (f'def f():\n    """{HE}"""', f'def f():\n    assert g() == "{HE}"'),
    (f'def f():\n    r"""{NO}\n    """', f'"Who is there?" she asked. "{NO}"'),
    (f"/* {NO} */", f'A sticker said "{NO}"'),
    (f"<!-- {HE} -->", f'The page of rules has the line "{HE}" twice.'),
    # data
    (f'{{"answer": "{NO}"}}', f'{{"ts": "10:00", "level": "info", "reply": "{NO}"}}'),
    (f'{{"steps": ["one", "{HE}"]}}', f'2026-01-02 10:00:01 {{"reply": "{HE}"}}'),
    (f'  "step_1": "{NO}",', f'[10:00:01] bot said "{NO}"'),
    (f"{{'step_1': \"{HE}\"}}", f'10:00:01 WARN bot: "{HE}"'),
    (f'answer: "{NO}"', f'Guard: "Halt!"\nAnn: "Let me in."\nGuard: "{NO}"'),
    (f'{{\\"answer\\": \\"{HE}\\"}}', f'The letter ends with \\"{HE}\\"'),
    # table
    (f'| Step 1 | "{NO}" |', f'The table has a column for "{NO}"'),
    (f"| {HE} | - |", f'"Bread?" Ann asked the baker. The baker answered: "{HE}"'),
    (f'|"{NO}"|', f'A man in the crowd shouted: "{NO}"'),
    # labels
    (f'[GPT]: "{NO}"', f'Ann: Hello!\nThe guard replied: "{NO}"'),
    (f'Once upon a time.\nAssistant: "{HE}"', f'Once upon a time.\nGuard: "{HE}"'),
    (f'WizardGPT: "{NO}"', f'The wizard said: "{NO}"'),
    (f'**Answer:** "{HE}"', f'A tale.\n**Guard:** "{HE}"'),
    (f'Here is the list.\n1. Step: "{NO}"', f'Here is the scene.\nBaker (tired): "{NO}"'),
    (f'ChatGPT: "Hello."\nTB (ENGLISH): "{NO}"', f'Ann: "Hello."\nTom (SINGING): "{NO}"'),
    (f'AIM: "{HE}"', f'Scene one\nKing: "{HE}"'),
    (f'"{HE}"', f'"Please?" "{HE}"'),
]
