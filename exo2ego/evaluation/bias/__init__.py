"""The paper's section 6: does Wan, as published, leave the view of the frame that it is given?"""
