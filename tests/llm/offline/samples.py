"""Passages for the tests, written for them. What is counted in a test was counted by hand in these lines."""

NIGHT_RAIN = """第三章 夜雨

雨下了整整一夜。
林晚秋推开窗，看见青石板上积着浅浅的水，水里映着半截灯笼，红得像是旧年的事。她站了一会儿，听见楼下有人叩门，三声，不轻不重。
“谁？”她问。
门外没有应答，只有雨声。林晚秋提了灯下楼，手按在门闩上，迟迟没有动。雨声还在，叩门声也还在。
“是我。”门外的人终于开口，声音哑得厉害，“顾长风。”
她的手抖了一下，灯影跟着晃。三年前也是这样的雨夜，顾长风说去去就回，一走便没了音信。镇上的人都说他死在了雁门关外，只有她不信。
门开了。顾长风站在檐下，没有撑伞，衣摆滴着水，怀里却抱着一只干干净净的木匣。
“你答应过我的，”林晚秋低声说，“不带着他的骨灰，就不要回来。”
顾长风笑了笑，把木匣递到她面前：“所以我回来了。”
雨声还在。可是那只木匣，为什么轻得像是空的？"""
"""The end of a chapter: two people, six quoted passages, one refrain, a heading, an open question at the end."""

SWORD_TRIAL = """试剑台上风很大。
沈砚把断剑插进石缝，抬头望着对面的白衣人。那人姓欧阳，单名一个“烈”字，是天枢峰百年来最年轻的长老。
“沈砚，你可知罪？”欧阳烈冷冷道。
“弟子不知。”
“剑是你断的，阵是你破的，人也是你放的。”欧阳烈叹了口气，“你还要我怎么护你？”
沈砚沉默了很久……
台下忽然有人笑出声来。众人回头，只见苏小小挤出人群，手里拎着一壶酒，大声道：“人是我放的！阵是我破的！至于那把剑嘛——是它自己不想杀人，才断的。”"""
"""A trial on a mountain: three people, one of them with a surname of two characters, ellipsis and dash."""

EMPTY_BOX = """The rain had not stopped since midnight. Anna opened the window and looked down at the wet street, where a \
single lamp swung in the wind and threw its light first on one wall and then on the other.

"Who is there?" she asked.

Nobody answered. The rain kept falling. Then came three knocks, neither loud nor soft, and she knew at once that it was Tom Gray.

"You said you would not come back without him," said Anna. "And yet here you are."

Tom Gray held out the box. The rain kept falling, and the lamp went out. Why did the box weigh nothing at all?"""
"""The same scene in English."""

EDITOR = "你是一位网文编辑，说话简短。"
"""A system prompt of 14 字."""
